//! TLS handshakes of the gRPC port: no resumption with a client CA, and what client certificates are refused.

use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose, SanType};
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::certificates::*;
use crate::support::tls_client::TlsClient;

#[tokio::test]
async fn session_is_never_resumed_with_a_client_ca() {
    let files = TlsFiles::new();
    let caller = files.callers.issue(&[uri(SPIFFE)]);
    let mutual = start_sandbox(files.mutual_tls_flags(), &[]).await;
    let server_only = start_sandbox(files.tls_flags(), &[]).await;
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::new(&files.servers.pem, Some(&caller), version);
        for _ in 0..2 {
            assert_eq!(client.handshake_kind(mutual.grpc).await, HandshakeKind::Full, "{version:?}");
        }
        // The same client resumes where it may.
        let client = TlsClient::new(&files.servers.pem, None, version);
        assert_eq!(client.handshake_kind(server_only.grpc).await, HandshakeKind::Full);
        assert_eq!(client.handshake_kind(server_only.grpc).await, HandshakeKind::Resumed, "{version:?}");
    }
}

#[tokio::test]
async fn certificate_with_a_spiffe_id_must_be_an_x509_svid() {
    let files = TlsFiles::new();
    let flags = files.mutual_tls_flags();
    let gateway = start_sandbox(flags, &["--allow=reader.example=*", &format!("--allow={SPIFFE}=*")]).await;
    let may_call =
        async |pair: &CertificateAndKey| get_over_tls(&gateway, files.client_tls(Some(pair))).await;
    let issue = |names: &[SanType]| files.callers.issue(names);
    let upper_case = SPIFFE.replace("spiffe:", "SPIFFE:");
    let name = dns("reader.example");
    for names in [
        vec![uri(SPIFFE)],
        vec![uri(SPIFFE), dns("other.example")],
        vec![uri(&upper_case)],
        vec![name.clone()],
        vec![uri("https://reader.example"), name.clone()],
    ] {
        may_call(&issue(&names)).await.unwrap();
    }
    // A DNS name that a rule allows does not count beside a SPIFFE ID.
    let other = uri("SPIFFE://example.org/other");
    may_call(&issue(&[other, name.clone()])).await.expect_err("another SPIFFE ID");

    let signing = |usage: Vec<KeyUsagePurpose>, is_ca: IsCa| {
        files.callers.issue_with(&[uri(SPIFFE)], |params| {
            params.key_usages = usage;
            params.is_ca = is_ca;
        })
    };
    let digital = KeyUsagePurpose::DigitalSignature;
    may_call(&signing(vec![digital], IsCa::ExplicitNoCa)).await.unwrap();
    let refused = [
        issue(&[uri(SPIFFE), uri("https://a.example"), name.clone()]),
        issue(&[uri("https://a.example"), uri(&upper_case), name.clone()]),
        issue(&[uri("spiffe://Example.org/reader"), name.clone()]),
        issue(&[uri("spiffe://example.org/a/../reader"), name.clone()]),
        issue(&[uri("spiffe://example.org"), name]),
        signing(vec![digital, KeyUsagePurpose::KeyCertSign], IsCa::NoCa),
        signing(vec![digital, KeyUsagePurpose::CrlSign], IsCa::NoCa),
        signing(vec![digital, KeyUsagePurpose::KeyCertSign], IsCa::Ca(BasicConstraints::Unconstrained)),
    ];
    for pair in &refused {
        may_call(pair).await.expect_err("not an X509-SVID");
    }
}
