//! As whom the gateway asks for a token, and for what: read from OpenStack's own variables, written as the body of
//! `POST /v3/auth/tokens`.

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use zeroize::Zeroizing;

use super::super::SecretSource;
use crate::http::BaseUrl;

/// The variable that names the file of those who may sign the identity service's certificate.
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

/// An account at the identity service.
#[derive(Debug)]
pub(super) struct Account {
    /// The identity service, with `/v3`.
    pub(super) auth_url: BaseUrl,
    method: Method,
    /// The region whose endpoint is looked for in the catalog; any where there is but one.
    pub(super) region: Option<String>,
    /// `public`, `internal` or `admin`.
    pub(super) interface: &'static str,
    /// The file of those who may sign the identity service's certificate, in place of the system's.
    pub(super) ca_file: Option<String>,
}

#[derive(Debug)]
enum Method {
    Password {
        user: User,
        password: SecretString,
        project: Project,
    },
    /// It brings its project with it.
    ApplicationCredential {
        name: CredentialName,
        secret: SecretString,
    },
}

#[derive(Debug)]
enum CredentialName {
    Id(String),
    /// A name is its user's.
    Name(String, User),
}

#[derive(Debug, Serialize)]
struct User {
    name: String,
    domain: Domain,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Domain {
    Id(String),
    Name(String),
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Project {
    Id { id: String },
    Name { name: String, domain: Domain },
}

/// Which project a token is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The account's.
    Project,
    /// None: whether the password is right at all.
    Nothing,
}

impl Account {
    /// Reads the variables, all of them before the first complaint.
    pub(super) fn read(variables: &SecretSource, allow_plaintext: bool) -> Result<Self, Vec<String>> {
        let mut reader = Reader { variables, problems: Vec::new() };
        let auth_url = reader.auth_url(allow_plaintext);
        let method = reader.method();
        let interface = reader.interface();
        let region = reader.text("OS_REGION_NAME");
        let ca_file = reader.text(CA_VARIABLE);
        match (auth_url, method, interface) {
            (Some(auth_url), Some(method), Some(interface)) if reader.problems.is_empty() => {
                Ok(Self { auth_url, method, region, interface, ca_file })
            }
            _ => Err(reader.problems),
        }
    }

    /// Whether the account is proved by a password, which the identity service may lock.
    pub(super) fn has_password(&self) -> bool {
        matches!(self.method, Method::Password { .. })
    }

    /// The body that asks for a token, in memory that is wiped.
    pub(super) fn request(&self, scope: Scope) -> Result<Bytes, serde_json::Error> {
        let (identity, own) = match &self.method {
            Method::Password { user, password, project } => {
                let user = PasswordUser {
                    name: &user.name,
                    domain: &user.domain,
                    password: password.expose_secret(),
                };
                let identity = Identity {
                    methods: ["password"],
                    password: Some(Password { user }),
                    ..Identity::default()
                };
                (identity, Some(AskedScope::Project(project)))
            }
            // With a scope it would be refused.
            Method::ApplicationCredential { name, secret } => {
                let (id, name, user) = match name {
                    CredentialName::Id(id) => (Some(id.as_str()), None, None),
                    CredentialName::Name(name, user) => (None, Some(name.as_str()), Some(user)),
                };
                let credential =
                    Some(ApplicationCredential { id, name, user, secret: secret.expose_secret() });
                let methods = ["application_credential"];
                (Identity { methods, application_credential: credential, ..Identity::default() }, None)
            }
        };
        let scope = match scope {
            Scope::Project => own,
            Scope::Nothing => Some(AskedScope::Unscoped),
        };
        // Large enough not to grow: growing would leave copies of the secret behind.
        let mut body = Zeroizing::new(Vec::with_capacity(self.longest_request()));
        serde_json::to_writer(&mut *body, &Request { auth: Auth { identity, scope } })?;
        Ok(Bytes::from_owner(body))
    }

    /// What must not be repeated.
    pub(super) fn secret(&self) -> &SecretString {
        match &self.method {
            Method::Password { password: secret, .. } | Method::ApplicationCredential { secret, .. } => {
                secret
            }
        }
    }

    /// Every character of a secret may take six in JSON; names are not secret, and may make it grow.
    fn longest_request(&self) -> usize {
        4096 + 6 * self.secret().expose_secret().len()
    }
}

#[derive(Serialize)]
struct Request<'a> {
    auth: Auth<'a>,
}

#[derive(Serialize)]
struct Auth<'a> {
    identity: Identity<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<AskedScope<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum AskedScope<'a> {
    Project(&'a Project),
    Unscoped,
}

#[derive(Default, Serialize)]
struct Identity<'a> {
    methods: [&'static str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<Password<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_credential: Option<ApplicationCredential<'a>>,
}

#[derive(Serialize)]
struct Password<'a> {
    user: PasswordUser<'a>,
}

#[derive(Serialize)]
struct PasswordUser<'a> {
    name: &'a str,
    domain: &'a Domain,
    password: &'a str,
}

#[derive(Serialize)]
struct ApplicationCredential<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a User>,
    secret: &'a str,
}

/// Reads variables and collects what is wrong with them.
struct Reader<'a> {
    variables: &'a SecretSource,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn secret(&mut self, name: &'static str) -> Option<SecretString> {
        self.variables.read(name).map_err(|why| self.problems.push(why)).ok().flatten()
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        self.secret(name).map(|value| value.expose_secret().to_owned())
    }

    fn needed<T>(&mut self, value: Option<T>, what: &str) -> Option<T> {
        if value.is_none() {
            self.problems.push(format!("{what} is needed, in the environment or in --secrets-dir"));
        }
        value
    }

    /// With `/v3` at its end, which may be left out.
    fn auth_url(&mut self, allow_plaintext: bool) -> Option<BaseUrl> {
        let text = self.text("OS_AUTH_URL");
        let text = self.needed(text, "OS_AUTH_URL, such as https://iam.eu-de.otc.t-systems.com/v3,")?;
        let whole = text.trim_end_matches('/');
        let whole = if whole.ends_with("/v3") { whole.to_owned() } else { format!("{whole}/v3") };
        BaseUrl::parse(&whole, allow_plaintext)
            .map_err(|why| self.problems.push(format!("OS_AUTH_URL {why}")))
            .ok()
    }

    /// An application credential comes before a password: it can do less.
    fn method(&mut self) -> Option<Method> {
        let id = self.text("OS_APPLICATION_CREDENTIAL_ID");
        let name = self.text("OS_APPLICATION_CREDENTIAL_NAME");
        let secret = self.secret("OS_APPLICATION_CREDENTIAL_SECRET");
        if id.is_none() && name.is_none() && secret.is_none() {
            return self.password();
        }
        let secret = self.needed(secret, "OS_APPLICATION_CREDENTIAL_SECRET");
        let name = match (id, name) {
            (Some(id), _) => Some(CredentialName::Id(id)),
            (None, Some(name)) => self.user().map(|user| CredentialName::Name(name, user)),
            (None, None) => self.needed(None, "OS_APPLICATION_CREDENTIAL_ID (or _NAME)"),
        };
        Some(Method::ApplicationCredential { name: name?, secret: secret? })
    }

    fn password(&mut self) -> Option<Method> {
        let user = self.user();
        let password = self.secret("OS_PASSWORD");
        let password = self.needed(password, "OS_PASSWORD (or OS_APPLICATION_CREDENTIAL_ID and _SECRET)");
        let project = self.project(user.as_ref().map(|user| &user.domain));
        Some(Method::Password { user: user?, password: password?, project: project? })
    }

    fn user(&mut self) -> Option<User> {
        let name = self.text("OS_USERNAME");
        let name = self.needed(name, "OS_USERNAME");
        let domain = self.domain("OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_NAME");
        let domain = self.needed(domain, "OS_USER_DOMAIN_NAME (or _ID)");
        Some(User { name: name?, domain: domain? })
    }

    /// A project that is named without a domain is in its user's.
    fn project(&mut self, of_user: Option<&Domain>) -> Option<Project> {
        let (id, name) = (self.text("OS_PROJECT_ID"), self.text("OS_PROJECT_NAME"));
        let domain = self.domain("OS_PROJECT_DOMAIN_ID", "OS_PROJECT_DOMAIN_NAME");
        match (id, name) {
            (Some(id), _) => Some(Project::Id { id }),
            (None, Some(name)) => Some(Project::Name { name, domain: domain.or_else(|| of_user.cloned())? }),
            (None, None) => self.needed(None, "OS_PROJECT_ID (or _NAME)"),
        }
    }

    fn domain(&mut self, id: &'static str, name: &'static str) -> Option<Domain> {
        let (id, name) = (self.text(id), self.text(name));
        id.map(Domain::Id).or(name.map(Domain::Name))
    }

    fn interface(&mut self) -> Option<&'static str> {
        let text = self.text("OS_INTERFACE").unwrap_or_else(|| "public".into());
        // The older form has `URL` at its end.
        let known =
            ["public", "internal", "admin"].into_iter().find(|known| *known == text.trim_end_matches("URL"));
        if known.is_none() {
            self.problems.push("OS_INTERFACE must be public, internal or admin".into());
        }
        known
    }
}
