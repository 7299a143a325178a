//! The gateway's account at the identity service: read from OpenStack's own variables, and serialized as the body of a token
//! request.
//!
//! Source: [Identity API v3](https://docs.openstack.org/api-ref/identity/v3/), "Password authentication with scoped
//! authorization" and "Authenticating with an Application Credential". This module sends nothing.

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use crate::credentials::secret_source::{HOW_TO_SET, SecretSource};
use crate::http::{BaseUrl, Roots};

/// The variable that names the PEM file of the identity service's CA certificates.
pub const CA_VARIABLE: &str = "OS_CACERT";

/// The variables that are read.
pub const VARIABLES: [&str; 15] = [
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

/// An account, and what else the variables say of the identity service.
#[derive(Debug)]
pub(super) struct Account {
    /// The identity service, with `/v3`.
    pub(super) auth_url: BaseUrl,
    /// Whether `http` is allowed, here and for the endpoint in the catalog.
    pub(super) allow_plaintext: bool,
    /// The CA certificates of the identity service: those of `OS_CACERT`, else the system's.
    pub(super) roots: Roots,
    pub(super) has_custom_roots: bool,
    /// The region of the endpoint in the catalog; any if there is only one.
    pub(super) region: Option<String>,
    /// `public`, `internal` or `admin`.
    pub(super) interface: &'static str,
    /// The scope of tokens. `None` for an application credential, which belongs to one project: a scope would be rejected.
    pub(super) scope: Option<Scope>,
    credential: Credential,
}

/// What a token is for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scope {
    Project(Project),
    /// Nothing: only to find out whether the password is right.
    Unscoped,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Project {
    Id { id: String },
    Name { name: String, domain: Domain },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Domain {
    Id(String),
    Name(String),
}

#[derive(Debug, Serialize)]
struct User {
    name: String,
    domain: Domain,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Credential {
    Password(PasswordMethod),
    ApplicationCredential(ApplicationCredential),
}

#[derive(Debug, Serialize)]
struct PasswordMethod {
    user: PasswordUser,
}

#[derive(Debug, Serialize)]
struct PasswordUser {
    #[serde(flatten)]
    user: User,
    #[serde(serialize_with = "expose")]
    password: SecretString,
}

/// It has an ID, or a name and its user.
#[derive(Debug, Serialize)]
struct ApplicationCredential {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User>,
    #[serde(serialize_with = "expose")]
    secret: SecretString,
}

fn expose<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

#[derive(Serialize)]
struct TokenRequest<'a> {
    auth: Auth<'a>,
}

#[derive(Serialize)]
struct Auth<'a> {
    identity: Identity<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a Scope>,
}

#[derive(Serialize)]
struct Identity<'a> {
    methods: [&'static str; 1],
    #[serde(flatten)]
    credential: &'a Credential,
}

impl Account {
    /// Reads the variables and the file of `OS_CACERT`. The error has a line for each problem.
    pub(super) fn read(source: &SecretSource, allow_plaintext: bool) -> Result<Self, Vec<String>> {
        let mut reader = Reader { source, problems: Vec::new() };
        match reader.account(allow_plaintext) {
            Some(account) if reader.problems.is_empty() => Ok(account),
            _ => Err(reader.problems),
        }
    }

    /// The body of `POST /v3/auth/tokens`, in memory that is wiped.
    pub(super) fn token_request(&self, scope: Option<&Scope>) -> Result<Bytes, serde_json::Error> {
        let methods = [if self.has_password() { "password" } else { "application_credential" }];
        let auth = Auth { identity: Identity { methods, credential: &self.credential }, scope };
        // Large enough not to grow, which would leave a copy of the secret behind: a character takes at most six bytes in JSON.
        let mut body = Zeroizing::new(Vec::with_capacity(4096 + 6 * self.secret().len()));
        serde_json::to_writer(&mut *body, &TokenRequest { auth })?;
        Ok(Bytes::from_owner(body))
    }

    /// Whether the account has a password, with which the identity service may lock it.
    pub(super) fn has_password(&self) -> bool {
        matches!(self.credential, Credential::Password(_))
    }

    /// The password or the secret of the application credential, which must not be repeated.
    pub(super) fn secret(&self) -> &str {
        let secret = match &self.credential {
            Credential::Password(method) => &method.user.password,
            Credential::ApplicationCredential(credential) => &credential.secret,
        };
        secret.expose_secret()
    }
}

/// Reads variables and collects the problems. A function that returns `None` for a value that is needed has reported why.
struct Reader<'a> {
    source: &'a SecretSource,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn account(&mut self, allow_plaintext: bool) -> Option<Account> {
        let auth_url = self.auth_url(allow_plaintext);
        let (credential, project) = self.credential();
        let interface = self.interface();
        let region = self.text("OS_REGION_NAME");
        let ca_file = self.text(CA_VARIABLE);
        let roots = self.roots(ca_file.as_deref(), auth_url.as_ref().is_some_and(BaseUrl::is_plaintext));
        Some(Account {
            auth_url: auth_url?,
            allow_plaintext,
            roots: roots?,
            has_custom_roots: ca_file.is_some(),
            region,
            interface: interface?,
            scope: project.map(Scope::Project),
            credential: credential?,
        })
    }

    /// With `/v3` at its end, which may be left out.
    fn auth_url(&mut self, allow_plaintext: bool) -> Option<BaseUrl> {
        let url = self.text("OS_AUTH_URL");
        let url = self.required(url, "OS_AUTH_URL, such as https://iam.eu-de.otc.t-systems.com/v3,")?;
        let url = url.trim_end_matches('/');
        if url.ends_with("/v2.0") || url.contains("/auth/tokens") {
            let problem = "OS_AUTH_URL must be the URL of Identity API v3, without /v2.0 and /auth/tokens";
            self.problems.push(format!("{problem}, such as https://iam.eu-de.otc.t-systems.com/v3"));
            return None;
        }
        let url = BaseUrl::parse(&format!("{}/v3", url.strip_suffix("/v3").unwrap_or(url)), allow_plaintext);
        self.report(url.map_err(|problem| format!("OS_AUTH_URL {problem}")))
    }

    /// The credential, and the project of a password. An application credential comes first, since it may do less.
    fn credential(&mut self) -> (Option<Credential>, Option<Project>) {
        let id = self.text("OS_APPLICATION_CREDENTIAL_ID");
        let name = self.text("OS_APPLICATION_CREDENTIAL_NAME");
        let secret = self.secret("OS_APPLICATION_CREDENTIAL_SECRET");
        if id.is_none() && name.is_none() && secret.is_none() {
            return (self.password().map(Credential::Password), self.project());
        }
        let secret = self.required(secret, "OS_APPLICATION_CREDENTIAL_SECRET");
        let (name, user) = match (&id, name) {
            (Some(_), _) => (None, None),
            (None, Some(name)) => (Some(name), self.user()),
            (None, None) => (self.required(None, "OS_APPLICATION_CREDENTIAL_ID (or _NAME)"), None),
        };
        let credential = secret.map(|secret| ApplicationCredential { id, name, user, secret });
        (credential.map(Credential::ApplicationCredential), None)
    }

    fn password(&mut self) -> Option<PasswordMethod> {
        let user = self.user();
        let password = self.secret("OS_PASSWORD");
        let password = self.required(password, "OS_PASSWORD (or OS_APPLICATION_CREDENTIAL_ID and _SECRET)");
        Some(PasswordMethod { user: PasswordUser { user: user?, password: password? } })
    }

    fn user(&mut self) -> Option<User> {
        let name = self.text("OS_USERNAME");
        let name = self.required(name, "OS_USERNAME");
        let domain = self.domain("OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_NAME");
        let domain = self.required(domain, "OS_USER_DOMAIN_NAME (or _ID)");
        Some(User { name: name?, domain: domain? })
    }

    /// A project that is named without a domain is in that of the user.
    fn project(&mut self) -> Option<Project> {
        if let Some(id) = self.text("OS_PROJECT_ID") {
            return Some(Project::Id { id });
        }
        let name = self.text("OS_PROJECT_NAME");
        let name = self.required(name, "OS_PROJECT_ID (or _NAME)")?;
        let domain = self.domain("OS_PROJECT_DOMAIN_ID", "OS_PROJECT_DOMAIN_NAME");
        let domain = domain.or_else(|| self.domain("OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_NAME"))?;
        Some(Project::Name { name, domain })
    }

    fn domain(&mut self, id: &'static str, name: &'static str) -> Option<Domain> {
        let id = self.text(id).map(Domain::Id);
        id.or_else(|| self.text(name).map(Domain::Name))
    }

    fn interface(&mut self) -> Option<&'static str> {
        let text = self.text("OS_INTERFACE").unwrap_or_else(|| "public".into());
        // The older form ends in `URL`.
        let name = text.trim_end_matches("URL");
        let interface = ["public", "internal", "admin"].into_iter().find(|known| *known == name);
        if interface.is_none() {
            self.problems.push("OS_INTERFACE must be public, internal or admin".into());
        }
        interface
    }

    fn roots(&mut self, ca_file: Option<&str>, is_plaintext: bool) -> Option<Roots> {
        let Some(file) = ca_file else {
            let system = Roots::system();
            let is_usable = is_plaintext || !system.is_empty();
            return self
                .required(is_usable.then_some(system), "OS_CACERT (the system has no CA certificates)");
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
        match result {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    fn required<T>(&mut self, value: Option<T>, variables: &str) -> Option<T> {
        if value.is_none() {
            self.problems.push(format!("{variables} is needed: {HOW_TO_SET}"));
        }
        value
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
        for url in
            ["http://iam.example", "http://iam.example/", "http://iam.example/v3", "http://iam.example/v3/"]
        {
            assert_eq!(read(url).unwrap(), "http://iam.example/v3", "{url}");
        }
        for url in [
            "http://iam.example/v2.0",
            "http://iam.example/v2.0/",
            "http://iam.example/v3/auth/tokens",
            "http://iam.example/v3/auth/tokens?nocatalog=1",
        ] {
            let problems = read(url).unwrap_err();
            assert!(problems.len() == 1 && problems[0].starts_with("OS_AUTH_URL must be"), "{problems:?}");
        }
    }
}
