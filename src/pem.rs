//! The only reader of PEM files (RFC 7468), and of the names and validity of X.509 certificates.
//!
//! What is in a file is read, or is an error: a block that is incomplete or of an unknown kind, and a certificate that does not
//! parse. Only private keys in a file of certificates, certificates in a file of a key, and EC or DH parameters are ignored.
//! An error contains the path, the block and what to do; the caller puts the name of the flag or variable before it.
//! This module must not know what the certificates are used for.

mod blocks;
mod certificate;

use std::path::Path;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::files;
use blocks::Block;
pub(crate) use certificate::Certificate;

/// CA certificates, and what is wrong with those that are not valid now.
pub(crate) struct CaBundle {
    pub(crate) roots: RootCertStore,
    /// One line for each expired certificate: path, block, subject.
    pub(crate) warnings: Vec<String>,
}

/// Reads every certificate of a file. There must be at least one.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    Ok(parse_certificates(path)?.into_iter().map(|parsed| parsed.der).collect())
}

/// Reads a certificate and its intermediate certificates. The first one must be valid now.
pub(crate) fn read_chain(path: &Path) -> Result<(Vec<CertificateDer<'static>>, Certificate), String> {
    let parsed = parse_certificates(path)?;
    let Some(leaf) = parsed.first() else { return Err(no_certificate(path)) };
    leaf.certificate
        .check_validity(SystemTime::now())
        .map_err(|problem| format!("{}: the certificate {problem}", leaf.place))?;
    let certificate = leaf.certificate.clone();
    Ok((parsed.into_iter().map(|parsed| parsed.der).collect(), certificate))
}

/// Reads a file of CA certificates. One that is not valid now is a warning, and stays in use: it may become valid, and what it has
/// signed may be valid longer. It is an error if none is valid.
pub(crate) fn read_roots(path: &Path) -> Result<CaBundle, String> {
    let mut bundle = CaBundle { roots: RootCertStore::empty(), warnings: Vec::new() };
    let now = SystemTime::now();
    for Parsed { der, certificate, place } in parse_certificates(path)? {
        bundle.roots.add(der).map_err(|error| format!("{place}: it cannot be used as a CA ({error})"))?;
        if let Err(problem) = certificate.check_validity(now) {
            bundle.warnings.push(format!("{place}: the CA certificate {} {problem}", certificate.subject));
        }
    }
    if bundle.roots.len() == bundle.warnings.len() {
        return Err(format!("no CA certificate is valid now: {}", bundle.warnings.join("; ")));
    }
    Ok(bundle)
}

/// Reads the only private key of a file.
pub(crate) fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let mut keys = read_blocks(path, Kind::PrivateKey)?.into_iter();
    let Some(key) = keys.next() else { return Err(format!("{} contains no private key", path.display())) };
    let place = place(path, &key);
    if key.is_encrypted_key() {
        return Err(format!(
            "{place}: the key is encrypted, and there is no passphrase: decrypt it (openssl pkey)"
        ));
    }
    if let Some(second) = keys.next() {
        return Err(format!(
            "{}: a second private key: keep only the certificate's",
            self::place(path, &second)
        ));
    }
    key.decode().map_err(|error| format!("{place}: not a valid private key ({error})"))
}

/// A certificate of a file.
struct Parsed {
    der: CertificateDer<'static>,
    certificate: Certificate,
    place: String,
}

fn parse_certificates(path: &Path) -> Result<Vec<Parsed>, String> {
    let mut certificates = Vec::new();
    for block in read_blocks(path, Kind::Certificate)? {
        let place = place(path, &block);
        let invalid = |error: String| format!("{place}: not a valid certificate ({error})");
        let der: CertificateDer<'static> = block.decode().map_err(|error| invalid(error.to_string()))?;
        let certificate = Certificate::parse(&der).map_err(invalid)?;
        certificates.push(Parsed { der, certificate, place });
    }
    if certificates.is_empty() { Err(no_certificate(path)) } else { Ok(certificates) }
}

fn no_certificate(path: &Path) -> String {
    format!("{} contains no certificate", path.display())
}

fn place(path: &Path, block: &Block) -> String {
    format!("{}: {}", path.display(), block.place)
}

/// Kinds of blocks that a file may contain.
#[derive(PartialEq)]
enum Kind {
    Certificate,
    PrivateKey,
    Parameters,
}

/// Reads a file, checks that every block is of a known kind, and returns those of one kind.
fn read_blocks(path: &Path, wanted: Kind) -> Result<Vec<Block>, String> {
    let pem = files::read(path).map_err(|error| format!("cannot read {} ({error})", path.display()))?;
    let blocks = blocks::blocks(&pem).map_err(|problem| format!("{}: {problem}", path.display()))?;
    let mut found = Vec::new();
    for block in blocks {
        let kind = kind(&block.label).map_err(|advice| {
            format!("{}: it is of a kind that is not read: {advice}", place(path, &block))
        })?;
        if kind == wanted {
            found.push(block);
        }
    }
    Ok(found)
}

/// The kind of a label. The error says what to do.
fn kind(label: &str) -> Result<Kind, &'static str> {
    match label {
        "CERTIFICATE" => Ok(Kind::Certificate),
        "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => {
            Ok(Kind::PrivateKey)
        }
        "EC PARAMETERS" | "DH PARAMETERS" => Ok(Kind::Parameters),
        "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => Err("convert it to CERTIFICATE (openssl x509)"),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => {
            Err("a request is no certificate: have it signed, and use what the CA returns")
        }
        "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => {
            Err("extract its certificates (openssl pkcs7 -print_certs)")
        }
        "OPENSSH PRIVATE KEY" | "DSA PRIVATE KEY" | "ANY PRIVATE KEY" => {
            Err("convert the key to PKCS #8 (ssh-keygen -p -m PKCS8, or openssl pkey)")
        }
        _ => Err("remove the block"),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn block(label: &str, base64: &str) -> String {
        format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
    }

    /// A CA certificate that is valid in these years.
    fn ca(from: i32, until: i32) -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("CA until {until}"));
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    /// Writes a file and reads it in three ways: as a chain, as CA certificates, as a key.
    fn read(pem: impl AsRef<[u8]>) -> [Result<usize, String>; 3] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.pem");
        std::fs::write(&path, pem).unwrap();
        let without_folder = |error: String| error.replace(&*path.to_string_lossy(), "file.pem");
        [
            read_chain(&path).map(|(chain, _)| chain.len()).map_err(without_folder),
            read_roots(&path).map(|bundle| bundle.roots.len()).map_err(without_folder),
            read_private_key(&path).map(|_| 1).map_err(without_folder),
        ]
    }

    #[test]
    fn keys_certificates_and_parameters_may_be_in_one_file() {
        let parts =
            ["a comment\n", &ca(2001, 2099), &block("EC PARAMETERS", "BggqhkjOPQMBBw=="), &ca(2001, 2098)];
        let key = KeyPair::generate().unwrap().serialize_pem();
        let pem = parts.concat() + &key;
        assert_eq!(read(&pem), [Ok(2), Ok(2), Ok(1)]);
        assert_eq!(read(pem.replace('\n', "\r\n")), [Ok(2), Ok(2), Ok(1)]);
        let [chain, roots, none] = read(ca(2001, 2099));
        assert_eq!((chain, roots), (Ok(1), Ok(1)));
        assert_eq!(none, Err("file.pem contains no private key".into()));
        assert_eq!(read(&key)[..2], ["file.pem contains no certificate"; 2].map(|text| Err(text.to_owned())));
    }

    #[test]
    fn unreadable_file_is_an_error_with_path_and_reason() {
        let path = Path::new("/no/such/file");
        let error = "cannot read /no/such/file (No such file or directory (os error 2))";
        assert_eq!(read_chain(path).unwrap_err(), error);
        assert_eq!(read_private_key(path).unwrap_err(), error);
        for [chain, roots, key] in [read(""), read("no block")] {
            let error = Err("file.pem contains no certificate".to_owned());
            assert_eq!((&chain, &roots), (&error, &error));
            assert_eq!(key, Err("file.pem contains no private key".into()));
        }
    }

    #[test]
    fn block_of_an_unknown_kind_is_an_error_that_says_what_to_do() {
        for (label, advice) in [
            ("TRUSTED CERTIFICATE", "openssl x509"),
            ("X509 CERTIFICATE", "openssl x509"),
            ("CERTIFICATE REQUEST", "have it signed"),
            ("PKCS7", "openssl pkcs7"),
            ("X509 CRL", "remove"),
            ("PUBLIC KEY", "remove"),
            ("OPENSSH PRIVATE KEY", "ssh-keygen"),
            ("certificate", "remove"),
        ] {
            let key = KeyPair::generate().unwrap().serialize_pem();
            for result in read(ca(2001, 2099) + &key + &block(label, "AA==")) {
                let error = result.unwrap_err();
                assert!(error.starts_with("file.pem: block 3 (line ") && error.contains(label), "{error}");
                assert!(error.contains(advice), "{error}");
            }
        }
    }

    #[test]
    fn block_that_does_not_decode_is_an_error() {
        let good = ca(2001, 2099);
        let der = good.lines().filter(|line| !line.starts_with('-')).collect::<String>();
        for (what, base64) in [
            ("no base64", "!!!!"),
            ("no DER", "AA=="),
            ("empty", ""),
            ("a header", "Proc-Type: 4,CLEAR\n\nAA=="),
            ("truncated", &der[..der.len() / 8 * 4]),
        ] {
            let [chain, roots, _] = read(good.clone() + &block("CERTIFICATE", base64));
            for error in [chain.unwrap_err(), roots.unwrap_err()] {
                let place = "file.pem: block 2 (line ";
                assert!(
                    error.starts_with(place) && error.contains("not a valid certificate"),
                    "{what}: {error}"
                );
            }
        }
        let error = read(block("PRIVATE KEY", "!!!!"))[2].clone().unwrap_err();
        assert!(
            error.starts_with("file.pem: block 1 (line 1, PRIVATE KEY): not a valid private key"),
            "{error}"
        );
    }

    #[test]
    fn private_key_must_be_the_only_one_and_not_encrypted() {
        let key = KeyPair::generate().unwrap().serialize_pem();
        let error = read(key.repeat(2))[2].clone().unwrap_err();
        assert!(error.contains("block 2 (line") && error.contains("second private key"), "{error}");
        for encrypted in [
            block("ENCRYPTED PRIVATE KEY", "AA=="),
            block("EC PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAA=="),
        ] {
            let error = read(&encrypted)[2].clone().unwrap_err();
            assert!(error.contains("the key is encrypted") && error.contains("decrypt it"), "{error}");
        }
    }

    #[test]
    fn certificate_that_is_not_valid_now_is_an_error_as_a_leaf_and_a_warning_in_a_bundle() {
        let (expired, future) = (ca(2001, 2020), ca(2090, 2099));
        for (pem, problem) in
            [(&expired, "expired on Wed, 01 Jan 2020"), (&future, "not valid before Sun, 01 Jan 2090")]
        {
            let [chain, roots, _] = read(pem);
            for error in [chain.unwrap_err(), roots.unwrap_err()] {
                assert!(
                    error.contains("file.pem: block 1 (line 1, CERTIFICATE): the ")
                        && error.contains(problem),
                    "{error}"
                );
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, [ca(2001, 2099), expired, future].concat()).unwrap();
        let bundle = read_roots(&path).unwrap();
        assert_eq!(bundle.roots.len(), 3);
        let [first, second] = bundle.warnings.as_slice() else { panic!("{:?}", bundle.warnings) };
        assert!(
            first.contains("ca.pem: block 2 (line") && first.contains("CN=CA until 2020 expired on"),
            "{first}"
        );
        assert!(
            second.contains("block 3") && second.contains("CN=CA until 2099 is not valid before"),
            "{second}"
        );
        // The intermediate certificates of a chain are not checked.
        std::fs::write(&path, [ca(2001, 2099), ca(2001, 2020)].concat()).unwrap();
        assert_eq!(read_chain(&path).unwrap().0.len(), 2);
    }
}
