//! The gateway's account at the identity service: read from OpenStack's own variables, and serialized as the body of a token
//! request.
//!
//! Source: [Identity API v3](https://docs.openstack.org/api-ref/identity/v3/), "Password authentication with scoped
//! authorization" and "Authenticating with an Application Credential". This module sends nothing.

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use zeroize::{Zeroize, Zeroizing};

use super::token_document::CatalogQuery;
use crate::credentials::secret_source::{HOW_TO_SET, SecretSource};
use crate::http::{BaseUrl, Roots};

/// The variable that names the PEM file of the identity service's CA certificates.
pub const CA_VARIABLE: &str = "OS_CACERT";

/// The variables that are read.
pub(super) const READ_VARIABLES: [&str; 15] = [
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
    CA_VARIABLE,
];

const CLOUDS_YAML: &str = "clouds.yaml is not read; set OS_AUTH_URL and the variables of the account";
const OWN_TOKENS: &str = "the gateway requests its own tokens; set OS_USERNAME and OS_PASSWORD, or OS_APPLICATION_CREDENTIAL_ID and _SECRET";
const OTHER_METHOD: &str = "only a password or an application credential is supported; set OS_USERNAME and OS_PASSWORD, or OS_APPLICATION_CREDENTIAL_ID and _SECRET";
const OTHER_SCOPE: &str = "a token for VBS is for a project; set OS_PROJECT_ID or OS_PROJECT_NAME";
const DOMAIN: &str =
    "set OS_USER_DOMAIN_NAME (or _ID) for the user, OS_PROJECT_DOMAIN_NAME (or _ID) for the project";
const CLIENT_CERTIFICATE: &str = "no client certificate is sent to the identity service; unset it";
const ENDPOINT: &str = "set --upstream-url for VBS, OS_AUTH_URL for the identity service";

/// Variables that OpenStack's clients read and the gateway does not, with what to do instead. Sources: the manual pages of
/// python-openstackclient, and the options of keystoneauth's plugins.
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
pub static VARIABLES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let ignored = IGNORED_VARIABLES.iter().map(|(name, _)| *name);
    READ_VARIABLES.into_iter().chain(ignored).collect()
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

/// The JSON pointer of the secret in a token request, for each authentication method.
const PASSWORD: &str = "/identity/password/user/password";
const APPLICATION_CREDENTIAL: &str = "/identity/application_credential/secret";

/// An account, and what else the variables say of the identity service.
#[derive(Debug)]
pub(super) struct Account {
    /// The identity service, with `/v3`.
    pub(super) auth_url: BaseUrl,
    /// The CA certificates of the identity service: those of `OS_CACERT`, else the system's.
    pub(super) roots: Roots,
    pub(super) has_custom_roots: bool,
    /// The upstream's endpoint in the catalog.
    pub(super) catalog: CatalogQuery,
    credential: Credential,
}

/// The parts of a token request.
#[derive(Debug)]
struct Credential {
    /// With `null` for the secret.
    identity: Value,
    /// `None` for an application credential, which belongs to one project: a scope would be rejected.
    scope: Option<Value>,
    secret_pointer: &'static str,
    secret: SecretString,
}

impl Account {
    /// Reads the variables and the file of `OS_CACERT`. The error has a line for each problem.
    pub(super) fn read(source: &SecretSource, allow_plaintext: bool) -> Result<Self, Vec<String>> {
        let mut reader = Reader { source, problems: Vec::new() };
        let auth_url = reader.auth_url(allow_plaintext);
        let credential = reader.credential();
        let interface = reader.interface();
        let region = reader.text("OS_REGION_NAME");
        let ca_file = reader.text(CA_VARIABLE);
        let roots = reader.roots(ca_file.as_deref(), auth_url.as_ref().is_some_and(BaseUrl::is_plaintext));
        match (auth_url, roots) {
            (Some(auth_url), Some(roots)) if reader.problems.is_empty() => {
                let catalog = CatalogQuery { region, interface, allow_plaintext };
                Ok(Self { auth_url, roots, has_custom_roots: ca_file.is_some(), catalog, credential })
            }
            _ => Err(reader.problems),
        }
    }

    /// The body of `POST /v3/auth/tokens`, in memory that is wiped. A token that is unscoped is for no project: it only shows
    /// whether the password is right.
    pub(super) fn token_request(&self, is_unscoped: bool) -> Bytes {
        let Credential { identity, scope, secret_pointer, secret } = &self.credential;
        let mut auth = json!({"identity": identity});
        if let (Some(scope), Value::Object(auth)) = (scope, &mut auth) {
            auth.insert("scope".into(), if is_unscoped { "unscoped".into() } else { scope.clone() });
        }
        if let Some(place) = auth.pointer_mut(secret_pointer) {
            *place = secret.expose_secret().into();
        }
        // Large enough not to grow, which would leave a copy of the secret behind: a character takes at most six bytes in JSON.
        let mut body = Zeroizing::new(Vec::with_capacity(4096 + 6 * secret.expose_secret().len()));
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(&mut *body, &HashMap::from([("auth", &auth)]));
        if let Some(Value::String(copy)) = auth.pointer_mut(secret_pointer) {
            copy.zeroize();
        }
        Bytes::from_owner(body)
    }

    /// Whether the account has a password, with which the identity service may lock it.
    pub(super) fn has_password(&self) -> bool {
        self.credential.secret_pointer == PASSWORD
    }

    /// The password or the secret of the application credential, which must not be repeated.
    pub(super) fn secret(&self) -> &str {
        self.credential.secret.expose_secret()
    }
}

/// Reads variables and collects the problems. A value that is needed and not set is empty afterwards.
struct Reader<'a> {
    source: &'a SecretSource,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// With `/v3` at its end, which may be left out.
    fn auth_url(&mut self, allow_plaintext: bool) -> Option<BaseUrl> {
        let Some(url) = self.text("OS_AUTH_URL") else {
            return self.missing("OS_AUTH_URL, such as https://iam.eu-de.otc.t-systems.com/v3,");
        };
        let url = url.trim_end_matches('/');
        let lowercase = url.to_ascii_lowercase();
        let is_other = ["/v2/", "/v2.0/", "/v3/", "/auth/tokens"].iter().any(|part| lowercase.contains(part));
        if is_other || lowercase.ends_with("/v2") || lowercase.ends_with("/v2.0") {
            let problem = "OS_AUTH_URL must be the URL of Identity API v3, without /v2.0 and /auth/tokens";
            self.problems.push(format!("{problem}, such as https://iam.eu-de.otc.t-systems.com/v3"));
            return None;
        }
        let base = if lowercase.ends_with("/v3") { url.get(..url.len() - 3) } else { Some(url) };
        let url = BaseUrl::parse(
            &format!("{}/v3", base.unwrap_or_default().trim_end_matches('/')),
            allow_plaintext,
        );
        self.report(url.map_err(|problem| format!("OS_AUTH_URL {problem}")))
    }

    /// An application credential comes first, since it may do less.
    fn credential(&mut self) -> Credential {
        let id = self.text("OS_APPLICATION_CREDENTIAL_ID");
        let name = self.text("OS_APPLICATION_CREDENTIAL_NAME");
        let secret = self.secret("OS_APPLICATION_CREDENTIAL_SECRET");
        if id.is_none() && name.is_none() && secret.is_none() {
            return self.password();
        }
        let credential = match (id, name) {
            (Some(id), _) => json!({"id": id, "secret": null}),
            (None, Some(name)) => {
                let (user, domain) = self.user();
                json!({"name": name, "user": {"name": user, "domain": domain}, "secret": null})
            }
            (None, None) => self.missing("OS_APPLICATION_CREDENTIAL_ID (or _NAME)"),
        };
        Credential {
            identity: json!({"methods": ["application_credential"], "application_credential": credential}),
            scope: None,
            secret_pointer: APPLICATION_CREDENTIAL,
            secret: secret.unwrap_or_else(|| self.missing("OS_APPLICATION_CREDENTIAL_SECRET")),
        }
    }

    fn password(&mut self) -> Credential {
        let (name, domain) = self.user();
        let user = json!({"name": name, "domain": domain, "password": null});
        let password = self.secret("OS_PASSWORD");
        let or_missing = || self.missing("OS_PASSWORD (or OS_APPLICATION_CREDENTIAL_ID and _SECRET)");
        Credential {
            identity: json!({"methods": ["password"], "password": {"user": user}}),
            secret: password.unwrap_or_else(or_missing),
            scope: Some(json!({"project": self.project()})),
            secret_pointer: PASSWORD,
        }
    }

    /// The user's name and domain.
    fn user(&mut self) -> (String, Value) {
        let name = self.text("OS_USERNAME").unwrap_or_else(|| self.missing("OS_USERNAME"));
        let domain = self.domain("OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_NAME");
        (name, domain.unwrap_or_else(|| self.missing("OS_USER_DOMAIN_NAME (or _ID)")))
    }

    /// A project that is named without a domain is in that of the user.
    fn project(&mut self) -> Value {
        if let Some(id) = self.text("OS_PROJECT_ID") {
            return json!({"id": id});
        }
        let Some(name) = self.text("OS_PROJECT_NAME") else {
            return self.missing("OS_PROJECT_ID (or _NAME)");
        };
        let domain = self.domain("OS_PROJECT_DOMAIN_ID", "OS_PROJECT_DOMAIN_NAME");
        let domain = domain.or_else(|| self.domain("OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_NAME"));
        json!({"name": name, "domain": domain})
    }

    fn domain(&mut self, id: &'static str, name: &'static str) -> Option<Value> {
        let id = self.text(id).map(|id| json!({"id": id}));
        id.or_else(|| self.text(name).map(|name| json!({"name": name})))
    }

    fn interface(&mut self) -> &'static str {
        let text = self.text("OS_INTERFACE").unwrap_or_else(|| "public".into());
        // The older form ends in `URL`.
        let name = text.trim_end_matches("URL");
        let interface = ["public", "internal", "admin"].into_iter().find(|known| *known == name);
        interface.unwrap_or_else(|| {
            self.problems.push("OS_INTERFACE must be public, internal or admin".into());
            ""
        })
    }

    fn roots(&mut self, ca_file: Option<&str>, is_plaintext: bool) -> Option<Roots> {
        let Some(file) = ca_file else {
            let system = Roots::system();
            if system.is_empty() && !is_plaintext {
                return self.missing("OS_CACERT (the system has no CA certificates)");
            }
            return Some(system);
        };
        let roots = Roots::from_pem_file(file.as_ref());
        self.report(roots.map_err(|problem| format!("{CA_VARIABLE}: {problem}")))
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        self.secret(name).map(|value| value.expose_secret().to_owned())
    }

    fn secret(&mut self, name: &'static str) -> Option<SecretString> {
        self.report(self.source.read(name))?
    }

    fn report<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.problems.push(problem)).ok()
    }

    /// Reports that a value is needed. Returns an empty one, so that the others are read as well.
    fn missing<T: Default>(&mut self, variables: &str) -> T {
        self.problems.push(format!("{variables} is needed: {HOW_TO_SET}"));
        T::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(auth_url: &str) -> Result<String, Vec<String>> {
        let variables = [
            ("OS_AUTH_URL", auth_url),
            ("OS_APPLICATION_CREDENTIAL_ID", "id"),
            ("OS_APPLICATION_CREDENTIAL_SECRET", "secret"),
        ];
        let variables = variables.map(|(name, value)| (name, value.into())).into();
        let source = SecretSource { directory: None, variables };
        Account::read(&source, true).map(|account| account.auth_url.to_string())
    }

    #[test]
    fn auth_url_is_that_of_version_3() {
        for url in [
            "http://iam.example",
            "http://iam.example/",
            "http://iam.example/v3",
            "http://iam.example/v3/",
            "http://iam.example//v3//",
            "http://iam.example/V3",
        ] {
            assert_eq!(read(url).unwrap(), "http://iam.example/v3", "{url}");
        }
        for url in [
            "http://iam.example/v2.0",
            "http://iam.example/v2.0/",
            "http://iam.example/V2.0",
            "http://iam.example/v2",
            "http://iam.example/v2.0/tokens",
            "http://iam.example/v3/auth/tokens",
            "http://iam.example/v3/auth/tokens/",
            "http://iam.example/v3/AUTH/Tokens",
            "http://iam.example/identity/v3/auth",
            "http://iam.example/auth/tokens",
            "http://iam.example/v3/auth/tokens?nocatalog=1",
        ] {
            let problems = read(url).unwrap_err();
            assert!(problems.len() == 1 && problems[0].starts_with("OS_AUTH_URL must be"), "{problems:?}");
        }
    }
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
                .all(|(name, _)| !READ_VARIABLES.contains(name) && VARIABLES.contains(name))
        );
    }
}
