//! Files that the gateway reads at startup and again when they change: rules, certificates, secrets.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::certificates::*;
use crate::support::process::{gateway_command, run_error};
use crate::support::*;

const KEYSTONE_VARIABLES: [&str; 15] = [
    "OS_AUTH_URL",
    "OS_USERNAME",
    "OS_PASSWORD",
    "OS_USER_DOMAIN_NAME",
    "OS_USER_DOMAIN_ID",
    "OS_PROJECT_NAME",
    "OS_PROJECT_ID",
    "OS_PROJECT_DOMAIN_NAME",
    "OS_PROJECT_DOMAIN_ID",
    "OS_APPLICATION_CREDENTIAL_ID",
    "OS_APPLICATION_CREDENTIAL_NAME",
    "OS_APPLICATION_CREDENTIAL_SECRET",
    "OS_REGION_NAME",
    "OS_INTERFACE",
    "OS_CACERT",
];
const AKSK_VARIABLES: [&str; 6] = [
    "OS_ACCESS_KEY",
    "OS_SECRET_KEY",
    "OS_SECURITY_TOKEN",
    "HUAWEICLOUD_SDK_AK",
    "HUAWEICLOUD_SDK_SK",
    "HUAWEICLOUD_SDK_SECURITY_TOKEN",
];
/// A complete account and complete keys in the environment, which a broken file must never be replaced by.
const ENVIRONMENT: [(&str, &str); 7] = [
    ("OS_AUTH_URL", "https://iam.example/v3"),
    ("OS_USERNAME", "reader"),
    ("OS_PASSWORD", "of-the-environment"),
    ("OS_USER_DOMAIN_NAME", "Default"),
    ("OS_PROJECT_ID", PROJECT),
    ("OS_ACCESS_KEY", "of-the-environment"),
    ("OS_SECRET_KEY", "of-the-environment"),
];

#[tokio::test]
async fn secrets_dir_that_cannot_be_read_is_an_error_in_every_mode() {
    let files = TlsFiles::new();
    let authorized = files.authorized_flags();
    symlink("nowhere", files.path("dangling")).unwrap();
    for (name, problem) in [
        ("missing", "No such file or directory"),
        ("dangling", "No such file or directory"),
        ("tls.crt", "Not a directory"),
        ("tls.crt/below", "Not a directory"),
    ] {
        let path = files.path(name);
        let named = format!("--secrets-dir (GATEWAY_SECRETS_DIR): cannot read {} ({problem}", path.display());
        for command in ["serve", "check"] {
            for mode in ["passthrough", "keystone", "aksk"] {
                let auth = format!("--auth={mode}");
                let flags = [&[command, "--sandbox", &auth], &strs(&authorized)[..]].concat();
                let mut command = gateway_command(&flags);
                command.envs(ENVIRONMENT).env("GATEWAY_SECRETS_DIR", &path);
                run_error(command, 64, &[&named]).await;
            }
        }
    }
}

#[tokio::test]
async fn broken_file_of_any_variable_is_an_error() {
    let files = TlsFiles::new();
    let authorized = files.authorized_flags();
    std::fs::create_dir(files.path("secrets")).unwrap();
    let secrets = files.flag("secrets-dir", "secrets");
    let dangling = |path: &Path| symlink("..data/nothing", path).unwrap();
    let directory = |path: &Path| std::fs::create_dir(path).unwrap();
    let binary = |path: &Path| std::fs::write(path, b"\xff").unwrap();
    for (mode, variables) in [("keystone", &KEYSTONE_VARIABLES[..]), ("aksk", &AKSK_VARIABLES)] {
        let auth = format!("--auth={mode}");
        let flags = [&["serve", "--sandbox", &auth, &secrets], &strs(&authorized)[..]].concat();
        for (index, name) in variables.iter().enumerate() {
            let path = files.path("secrets").join(name);
            [dangling, directory, binary][index % 3](&path);
            let mut command = gateway_command(&flags);
            command.envs(ENVIRONMENT);
            let named =
                format!("{name} of --secrets-dir (GATEWAY_SECRETS_DIR): cannot read {}", path.display());
            run_error(command, 64, &[&named]).await;
            std::fs::rename(&path, files.path(&format!("was-{name}"))).unwrap();
        }
    }
}
