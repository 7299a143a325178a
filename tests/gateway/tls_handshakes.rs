//! TLS handshakes of the gRPC port: no resumption with a client CA, what client certificates are refused, and how failures show.

use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{AlertDescription, HandshakeKind};

use crate::support::certificates::*;
use crate::support::h2_peer::PREFACE;
use crate::support::process::GatewayProcess;
use crate::support::tls_client::{Refusal, TlsClient};
use crate::support::*;

fn failures(reason: &str) -> String {
    format!("tls_handshake_failures_total{{reason=\"{reason}\"}}")
}

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
    for (count, pair) in refused.iter().enumerate() {
        for version in [&TLS12, &TLS13] {
            let client = TlsClient::new(&files.servers.pem, Some(pair), version);
            let refusal = client.refusal(gateway.grpc).await;
            assert_eq!(refusal, Refusal::Alert(AlertDescription::CertificateUnknown), "{count} {version:?}");
        }
    }
    let count = 2.0 * refused.len() as f64;
    assert_eq!(gateway.metric(&failures("bad_certificate")).await, count);
}

#[tokio::test]
async fn refused_client_receives_the_alert_and_is_counted() {
    use AlertDescription::{CertificateExpired, CertificateRequired, UnknownCA};
    let files = TlsFiles::new();
    let gateway = start_sandbox(files.mutual_tls_flags(), &[]).await;
    let names = [uri(SPIFFE)];
    let same_name = CertificateAuthority::new().issue(&names);
    let other_name = CertificateAuthority::with("another CA", |_| {}).issue(&names);
    let expired = files.callers.issue_until(&names, 2001);
    let early =
        files.callers.issue_with(&names, |params| params.not_before = rcgen::date_time_ymd(2098, 1, 1));
    for reason in [
        "no_certificate",
        "unknown_ca",
        "expired",
        "bad_certificate",
        "alert",
        "protocol",
        "timeout",
        "closed",
    ] {
        let (_, text) = gateway.admin_get("/metrics").await;
        assert!(text.contains(&format!("{} 0\n", failures(reason))), "{reason} in {text}");
    }
    let cases = [
        (None, CertificateRequired, "no_certificate"),
        (Some(&same_name), UnknownCA, "unknown_ca"),
        (Some(&other_name), UnknownCA, "unknown_ca"),
        (Some(&expired), CertificateExpired, "expired"),
        (Some(&early), CertificateExpired, "expired"),
    ];
    for (identity, alert, reason) in cases {
        let before = gateway.metric(&failures(reason)).await;
        for version in [&TLS12, &TLS13] {
            let client = TlsClient::new(&files.servers.pem, identity, version);
            for _ in 0..10 {
                let refusal = client.refusal(gateway.grpc).await;
                assert_eq!(refusal, Refusal::Alert(alert), "{reason} {version:?}");
            }
        }
        // A failure is counted after the alert is written.
        gateway.metric_becomes(&failures(reason), before + 20.0).await;
    }
    gateway.metric_becomes("server_connections", 0.0).await;
}

#[tokio::test]
async fn other_failed_handshakes_are_counted_by_reason() {
    let files = TlsFiles::new();
    let gateway = start_sandbox(files.tls_flags(), &["--handshake-timeout=300ms"]).await;
    let counted = async |reason: &str, count: f64| gateway.metric_becomes(&failures(reason), count).await;

    // A peer that sends nothing and closes is a probe.
    for _ in 0..3 {
        drop(TcpStream::connect(gateway.grpc).await.unwrap());
    }
    let client = |version| TlsClient::new(&files.servers.pem, None, version);
    // So is one that closes after the handshake, without a byte of HTTP/2.
    client(&TLS13).handshake_kind(gateway.grpc).await;

    let send = async |bytes: &[u8]| {
        let mut peer = TcpStream::connect(gateway.grpc).await.unwrap();
        peer.write_all(bytes).await.unwrap();
        peer
    };
    let mut plaintext = send(b"GET / HTTP/1.1\r\n\r\n").await;
    with_timeout("the end", plaintext.read_to_end(&mut Vec::new())).await.expect("no reset");
    counted("protocol", 1.0).await;
    let mut plaintext = send(PREFACE).await;
    with_timeout("the end", plaintext.read_to_end(&mut Vec::new())).await.expect("no reset");
    counted("protocol", 2.0).await;
    let mut http1 = client(&TLS12);
    http1.0.alpn_protocols = vec![b"http/1.1".to_vec()];
    let refusal = http1.refusal(gateway.grpc).await;
    assert_eq!(refusal, Refusal::Alert(AlertDescription::NoApplicationProtocol));
    counted("protocol", 3.0).await;

    let half_hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    drop(send(&half_hello).await);
    counted("closed", 1.0).await;
    let mut silent = TcpStream::connect(gateway.grpc).await.unwrap();
    let _ = with_timeout("the end", silent.read(&mut [0; 1])).await;
    counted("timeout", 1.0).await;

    let stranger = TlsClient::new(&files.callers.pem, None, &TLS13);
    stranger.refusal(gateway.grpc).await;
    counted("alert", 1.0).await;
    for (reason, count) in [("protocol", 3.0), ("closed", 1.0), ("timeout", 1.0), ("no_certificate", 0.0)] {
        assert_eq!(gateway.metric(&failures(reason)).await, count, "{reason}");
    }
    let plaintext = Gateway::start(&["--sandbox", "--handshake-timeout=100ms"]).await;
    let mut silent = TcpStream::connect(plaintext.grpc).await.unwrap();
    let _ = with_timeout("the end", silent.read(&mut [0; 1])).await;
    assert_eq!(plaintext.metric(&failures("timeout")).await, 0.0, "there is no TLS");
}

#[tokio::test]
async fn failed_handshakes_are_logged_with_their_number_at_a_bounded_rate() {
    let files = TlsFiles::new();
    let flags = files.mutual_tls_flags();
    let mut gateway = GatewayProcess::start(&[&["--sandbox"], &strs(&flags)[..]].concat()).await;
    let client = TlsClient::new(&files.servers.pem, None, &TLS13);
    let address = gateway.grpc.parse().unwrap();
    let start = std::time::Instant::now();
    for _ in 0..40 {
        client.refusal(address).await;
    }
    let (mut lines, mut count) = (0, 0);
    while count < 40 {
        let line =
            gateway.line_with_message("TLS handshakes failed; peer and error are those of the first").await;
        assert_eq!((&line["level"], &line["reason"]), (&"WARN".into(), &"no_certificate".into()), "{line}");
        assert!(line["error"].as_str().unwrap().contains("certificate"), "{line}");
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        count += line["count"].as_u64().unwrap();
        lines += 1;
    }
    assert_eq!(count, 40);
    // One at once, and then at most one per second.
    assert!(lines <= 1 + start.elapsed().as_secs() + 1, "{lines}");
    gateway.terminate().await;
}
