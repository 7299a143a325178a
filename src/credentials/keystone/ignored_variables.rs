//! Variables that OpenStack's clients read and the gateway does not. One that is set is a warning, since an effect is expected.
//!
//! Sources: the manual page of python-openstackclient, and the options of keystoneauth's plugins.

use std::sync::LazyLock;

use secrecy::ExposeSecret;

use super::account::VARIABLES;
use crate::credentials::secret_source::SecretSource;

const CLOUDS_YAML: &str = "clouds.yaml is not read; set OS_AUTH_URL and the variables of the account";
const OWN_TOKENS: &str = "the gateway requests its own tokens; set OS_USERNAME and OS_PASSWORD, or OS_APPLICATION_CREDENTIAL_ID and _SECRET";
const OTHER_METHOD: &str = "only a password or an application credential is supported; set OS_USERNAME and OS_PASSWORD, or OS_APPLICATION_CREDENTIAL_ID and _SECRET";
const OTHER_SCOPE: &str = "a token for VBS is for a project: the one that a call names, or that of OS_PROJECT_ID or OS_PROJECT_NAME";
const DOMAIN: &str =
    "set OS_USER_DOMAIN_NAME (or _ID) for the user, OS_PROJECT_DOMAIN_NAME (or _ID) for the project";
const CLIENT_CERTIFICATE: &str = "no client certificate is sent to the identity service; unset it";
const ENDPOINT: &str = "set --upstream-url for VBS, OS_AUTH_URL for the identity service";

/// The variables, with what to do instead.
const IGNORED_VARIABLES: [(&str, &str); 29] = [
    ("OS_CLOUD", CLOUDS_YAML),
    ("OS_CLIENT_CONFIG_FILE", CLOUDS_YAML),
    ("OS_CLIENT_SECURE_FILE", CLOUDS_YAML),
    ("OS_TOKEN", OWN_TOKENS),
    ("OS_AUTH_TOKEN", OWN_TOKENS),
    ("OS_AUTH_TYPE", OTHER_METHOD),
    ("OS_AUTH_PLUGIN", OTHER_METHOD),
    ("OS_AUTH_METHODS", OTHER_METHOD),
    ("OS_PASSCODE", OTHER_METHOD),
    ("OS_ACCESS_TOKEN", OTHER_METHOD),
    ("OS_IDENTITY_PROVIDER", OTHER_METHOD),
    ("OS_PROTOCOL", OTHER_METHOD),
    ("OS_USER_ID", "set OS_USERNAME, and OS_USER_DOMAIN_NAME (or _ID)"),
    ("OS_TENANT_ID", "set OS_PROJECT_ID"),
    ("OS_TENANT_NAME", "set OS_PROJECT_NAME"),
    ("OS_DOMAIN_ID", OTHER_SCOPE),
    ("OS_DOMAIN_NAME", OTHER_SCOPE),
    ("OS_SYSTEM_SCOPE", OTHER_SCOPE),
    ("OS_TRUST_ID", OTHER_SCOPE),
    ("OS_DEFAULT_DOMAIN", DOMAIN),
    ("OS_DEFAULT_DOMAIN_ID", DOMAIN),
    ("OS_DEFAULT_DOMAIN_NAME", DOMAIN),
    ("OS_IDENTITY_API_VERSION", "only Identity API v3 is supported; set OS_AUTH_URL to its URL"),
    ("OS_ENDPOINT_TYPE", "set OS_INTERFACE"),
    ("OS_ENDPOINT", ENDPOINT),
    ("OS_URL", ENDPOINT),
    ("OS_INSECURE", "certificates are always verified; set OS_CACERT to the CA of the identity service"),
    ("OS_CERT", CLIENT_CERTIFICATE),
    ("OS_KEY", CLIENT_CERTIFICATE),
];

/// The variables that a [`SecretSource`] of an account has: those that are read, and those that [`ignored_variables`] names.
pub static KNOWN_VARIABLES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let ignored = IGNORED_VARIABLES.iter().map(|(name, _)| *name);
    VARIABLES.into_iter().chain(ignored).collect()
});

/// A warning for each variable that is set, that OpenStack's clients would read, and that the gateway ignores: its name and what
/// to do instead, never its value.
pub fn ignored_variables(source: &SecretSource) -> Vec<String> {
    let is_set = |name: &'static str| match source.read(name) {
        Ok(value) => value.is_some_and(|value| !is_default(name, value.expose_secret())),
        Err(_unreadable) => true,
    };
    let ignored = IGNORED_VARIABLES.iter().filter(|(name, _)| is_set(name));
    ignored.map(|(name, advice)| format!("{name} is ignored: {advice}")).collect()
}

/// Whether the variable asks for what the gateway does in any case.
fn is_default(name: &str, value: &str) -> bool {
    match name {
        "OS_AUTH_TYPE" | "OS_AUTH_PLUGIN" => {
            let kind = value.trim_start_matches("v3");
            matches!(kind, "password" | "applicationcredential")
        }
        "OS_AUTH_METHODS" => matches!(value, "password" | "v3password" | "application_credential"),
        "OS_IDENTITY_API_VERSION" => value == "3" || value.starts_with("3."),
        "OS_INSECURE" => matches!(value.to_ascii_lowercase().as_str(), "0" | "false" | "no"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(variables: &[(&'static str, &str)]) -> Vec<String> {
        let variables = variables.iter().map(|(name, value)| (*name, (*value).into())).collect();
        ignored_variables(&SecretSource { directory: None, variables })
    }

    #[test]
    fn ignored_variables_are_named_with_advice_and_without_their_values() {
        for (name, advice) in [
            ("OS_ENDPOINT_TYPE", "set OS_INTERFACE"),
            ("OS_CLOUD", "OS_AUTH_URL"),
            ("OS_TOKEN", "OS_APPLICATION_CREDENTIAL_ID"),
            ("OS_AUTH_TYPE", "OS_USERNAME"),
            ("OS_TRUST_ID", "OS_PROJECT_ID"),
            ("OS_SYSTEM_SCOPE", "OS_PROJECT_ID"),
            ("OS_DOMAIN_NAME", "OS_PROJECT_ID"),
            ("OS_TENANT_NAME", "set OS_PROJECT_NAME"),
            ("OS_INSECURE", "OS_CACERT"),
            ("OS_CERT", "no client certificate"),
        ] {
            let found = warnings(&[(name, "s3cret"), ("OS_USERNAME", "s3cret")]);
            let [warning] = found.as_slice() else { panic!("{name}: {found:?}") };
            assert!(
                warning.starts_with(&format!("{name} is ignored: ")) && warning.contains(advice),
                "{warning}"
            );
            assert!(!warning.contains("s3cret"), "{warning}");
        }
        let fine = [
            ("OS_AUTH_TYPE", "v3applicationcredential"),
            ("OS_AUTH_PLUGIN", "password"),
            ("OS_IDENTITY_API_VERSION", "3"),
            ("OS_INSECURE", "False"),
            ("OS_CLOUD", ""),
        ];
        assert_eq!(warnings(&fine), [""; 0]);
        assert!(
            IGNORED_VARIABLES
                .iter()
                .all(|(name, _)| !VARIABLES.contains(name) && KNOWN_VARIABLES.contains(name))
        );
    }
}
