//! PEM files: what is in a file is used, or the file is an error that names the block, wherever it is read. Expired certificates.

use rcgen::date_time_ymd;

use crate::support::certificates::*;
use crate::support::process;
use crate::support::*;

/// Every flag and variable that names a PEM file, and a command that reads it.
const CERTIFICATE_FILES: [&str; 7] = [
    "--tls-cert",
    "--tls-client-ca",
    "--upstream-ca",
    "OS_CACERT",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "get --tls-ca",
    "get --tls-cert",
];
const KEY_FILES: [&str; 2] = ["--tls-key", "get --tls-key"];

/// Runs the command that reads `file.pem` by this flag or variable, with valid other files. Returns exit code and output.
async fn read_as(files: &TlsFiles, source: &str) -> (i32, String) {
    let file = |flag: &str, name: &str| files.flag(flag.trim_start_matches('-'), name);
    let names = [("--tls-cert", "tls.crt"), ("--tls-key", "tls.key"), ("--tls-client-ca", "clients.pem")];
    let mut arguments = vec!["check".to_owned(), "--upstream-url=https://vbs.example".into()];
    arguments.extend(names.map(|(flag, name)| file(flag, if flag == source { "file.pem" } else { name })));
    let mut variables = vec![];
    if let Some(source) = source.strip_prefix("get ") {
        let names = [("--tls-ca", "servers.pem"), ("--tls-cert", "tls.crt"), ("--tls-key", "tls.key")];
        arguments =
            ["get", "--address=127.0.0.1:1", "--project-id", PROJECT, SHARE].map(str::to_owned).into();
        arguments
            .extend(names.map(|(flag, name)| file(flag, if flag == source { "file.pem" } else { name })));
    } else if source == "--upstream-ca" {
        arguments.push(file(source, "file.pem"));
    } else if source.starts_with("--") {
        assert!(names.iter().any(|(flag, _)| *flag == source), "{source}");
    } else {
        let path = files.path("file.pem").display().to_string();
        variables = vec![
            (source, path.as_str().to_owned()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example:4318".into()),
            ("OS_AUTH_URL", "https://iam.example/v3".into()),
            ("OS_USERNAME", "reader".into()),
            ("OS_PASSWORD", "secret".into()),
            ("OS_USER_DOMAIN_NAME", "Default".into()),
            ("OS_PROJECT_ID", PROJECT.into()),
        ];
        arguments.extend(["--auth=keystone".into(), format!("--allow={SPIFFE}=*")]);
    }
    let mut command = process::gateway_command(&strs(&arguments));
    command.env("OS_TOKEN", TOKEN).envs(variables);
    let output = process::run(command).await;
    let text = process::to_text(&output.stdout) + &process::to_text(&output.stderr);
    (output.status.code().unwrap(), text)
}

/// Files with `file.pem` of this content, and those that belong to its first certificate or key.
fn files_with(content: impl AsRef<[u8]>) -> TlsFiles {
    let files = TlsFiles::new();
    std::fs::write(files.path("servers.pem"), &files.servers.pem).unwrap();
    std::fs::write(files.path("file.pem"), content).unwrap();
    files
}

/// The file is refused, with all of `parts` in the error, after the flag or variable and the path.
async fn assert_refused(source: &str, content: impl AsRef<[u8]>, parts: &[&str]) {
    assert_refused_in(&files_with(content), source, parts).await;
}

async fn assert_refused_in(files: &TlsFiles, source: &str, parts: &[&str]) {
    let (exit_code, output) = read_as(files, source).await;
    assert_eq!(exit_code, 64, "{source}: {output}");
    let path = files.path("file.pem").display().to_string();
    for part in [&[source.trim_start_matches("get "), &*path], parts].concat() {
        assert!(output.contains(part), "{source}: {part} in {output}");
    }
}

fn block(label: &str) -> String {
    format!("-----BEGIN {label}-----\nAA==\n-----END {label}-----\n")
}

#[tokio::test]
async fn certificate_file_that_would_be_half_read_is_refused_wherever_it_is_read() {
    let good = CertificateAuthority::new().pem;
    let lines = good.lines().count();
    let second = format!("block 2 (line {}, ", lines + 1);
    let joined = format!("{}{good}", good.trim_end());
    let trusted = good.clone() + &good.replace("CERTIFICATE", "TRUSTED CERTIFICATE");
    let indented = good.clone() + &good.replace('\n', "\n    ").replacen("-----", "    -----", 1);
    let mangled = good.clone() + &block("CERTIFICATE");
    let cut = &good.repeat(2)[..good.len() * 2 - 30];
    let marked = format!("\u{feff}{good}");
    for source in CERTIFICATE_FILES {
        assert_refused(source, &joined, &["line break"]).await;
        assert_refused(source, &trusted, &[&second, "TRUSTED CERTIFICATE", "openssl x509"]).await;
        assert_refused(source, &indented, &["spaces"]).await;
        assert_refused(source, &mangled, &[&second, "not a valid certificate"]).await;
        assert_refused(source, cut, &[&second, "END CERTIFICATE"]).await;
        assert_refused(source, &marked, &["line 1", "byte order mark"]).await;
        assert_refused(source, "", &["contains no certificate"]).await;
        assert_refused(source, [0x30, 0x82, 1, 1, 0], &["DER"]).await;
    }
}

#[tokio::test]
async fn key_file_must_have_one_usable_key() {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for source in KEY_FILES {
        assert_refused(source, block("ENCRYPTED PRIVATE KEY"), &["block 1", "encrypted", "decrypt"]).await;
        let legacy = key.replacen('\n', "\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-EDE3-CBC,00\n\n", 1);
        assert_refused(source, &legacy, &["block 1", "encrypted", "decrypt"]).await;
        assert_refused(source, block("OPENSSH PRIVATE KEY"), &["OPENSSH PRIVATE KEY", "ssh-keygen"]).await;
        assert_refused(source, key.repeat(2), &["block 2", "second private key"]).await;
        assert_refused(source, key.trim_end().repeat(2), &["line break"]).await;
        assert_refused(source, CertificateAuthority::new().pem, &["contains no private key"]).await;
    }
}

#[tokio::test]
async fn pipe_and_file_without_end_are_refused() {
    for source in CERTIFICATE_FILES.iter().chain(&KEY_FILES) {
        let files = files_with("");
        let path = files.path("file.pem");
        std::fs::remove_file(&path).unwrap();
        make_pipe(&path);
        assert_refused_in(&files, source, &["it is a pipe"]).await;
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_refused_in(&files, source, &["longer than 16 MiB"]).await;
    }
}

#[tokio::test]
async fn certificate_and_key_may_be_in_one_file_with_comments() {
    let files = TlsFiles::new();
    let pair = files.servers.issue(&[dns("localhost")]);
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let all = format!("Bag Attributes\n  name: x\n{parameters}{}subject: y\n{}", pair.key, pair.certificate);
    let all = (all + &files.servers.pem).replace('\n', "\r\n");
    files.write_server_pair(&CertificateAndKey { certificate: all.clone(), key: all.clone() });
    std::fs::write(files.path("clients.pem"), all + &files.callers.pem).unwrap();
    let gateway = start_sandbox(files.mutual_tls_flags(), &[]).await;
    get_over_tls(&gateway, files.client_tls(Some(&files.callers.issue(&[uri(SPIFFE)])))).await.unwrap();
}

#[tokio::test]
async fn server_certificate_that_is_not_valid_now_is_refused() {
    let files = files_with("");
    let expired = files.servers.issue_until(&[dns("localhost")], 2020);
    let early =
        files.servers.issue_with(&[dns("localhost")], |params| params.not_before = date_time_ymd(2090, 1, 1));
    for (pair, parts) in [
        (expired, ["expired on Wed, 01 Jan 2020", "renew it"]),
        (early, ["not valid before Sun, 01 Jan 2090", "clock"]),
    ] {
        files.write_server_pair(&pair);
        let flags = files.tls_flags();
        for command in ["check", "serve"] {
            let command = process::gateway_command(&[&[command, "--sandbox"], &strs(&flags)[..]].concat());
            let path = files.path("tls.crt").display().to_string();
            process::run_error(command, 64, &[&["--tls-cert", &path], &parts[..]].concat()).await;
        }
    }
}

#[tokio::test]
async fn expired_ca_in_a_bundle_is_a_warning_and_a_bundle_of_expired_ones_is_refused() {
    let valid = CertificateAuthority::new().pem;
    let old = CertificateAuthority::with("old CA", |params| params.not_after = date_time_ymd(2020, 1, 1)).pem;
    let early =
        CertificateAuthority::with("early CA", |params| params.not_before = date_time_ymd(2090, 1, 1)).pem;
    for source in ["--tls-client-ca", "--upstream-ca", "OS_CACERT", "OTEL_EXPORTER_OTLP_CERTIFICATE"] {
        assert_refused(
            source,
            format!("{old}{early}"),
            &["old CA", "expired on Wed, 01 Jan 2020", "early CA"],
        )
        .await;
        let files = files_with(format!("{old}{valid}{early}"));
        let (exit_code, output) = read_as(&files, source).await;
        assert_eq!(exit_code, 0, "{source}: {output}");
        let path = files.path("file.pem").display().to_string();
        let is_about_file = |line: &&str| line.starts_with("warn") && line.contains(&path);
        let warnings: Vec<&str> = output.lines().filter(is_about_file).collect();
        let [first, second] = warnings.as_slice() else { panic!("{source}: {output}") };
        for (warning, part) in [(first, "old CA expired on"), (second, "early CA is not valid before")] {
            assert!(warning.contains(part), "{source}: {output}");
        }
    }
}
