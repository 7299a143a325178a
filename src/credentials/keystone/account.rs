//! The gateway's account at the identity service: read from OpenStack's own variables, and serialized as the body of a token
//! request.
//!
//! Source: [Identity API v3](https://docs.openstack.org/api-ref/identity/v3/), "Password authentication with scoped
//! authorization" and "Authenticating with an Application Credential". This module sends nothing.

use std::collections::HashMap;
use std::path::PathBuf;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use zeroize::{Zeroize, Zeroizing};

use super::token_document::CatalogQuery;
use crate::credentials::secret_source::{HOW_TO_SET, SecretSource};
use crate::domain::ProjectId;
use crate::http::{BaseUrl, Roots};

/// The variable that names the PEM file of the identity service's CA certificates.
pub const CA_VARIABLE: &str = "OS_CACERT";

/// The variables that are read.
pub(super) const VARIABLES: [&str; 15] = [
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

/// Whether `check` may show the value of this variable: it is neither a secret nor part of an application credential.
pub fn is_public(name: &str) -> bool {
    let is_of_credential = name == "OS_PASSWORD" || name.starts_with("OS_APPLICATION_CREDENTIAL_");
    VARIABLES.contains(&name) && !is_of_credential
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
    /// The upstream's endpoint in the catalog.
    pub(super) catalog: CatalogQuery,
    credential: Credential,
}

/// The projects that the tokens of an account are for.
#[derive(Debug)]
pub(crate) enum Scope {
    /// That of the application credential. A request must not name it.
    OfCredential,
    /// That of `OS_PROJECT_ID`.
    Id(ProjectId),
    /// That of `OS_PROJECT_NAME`, as a request names it. A token tells its ID.
    Name(Value),
    /// The one that a call names, with a token for each.
    EachProject,
}

impl Scope {
    /// The ID of the only project, if the configuration states it.
    pub(crate) fn project_id(&self) -> Option<&ProjectId> {
        if let Self::Id(project) = self { Some(project) } else { None }
    }

    /// Whether there is a token for each project that a call names.
    pub(crate) fn is_each_project(&self) -> bool {
        matches!(self, Self::EachProject)
    }
}

/// What a token is requested for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// The one project of the account.
    OwnProject,
    /// The project that a call names.
    Project(&'a ProjectId),
    /// No project: such a token only shows that the password is right.
    NoProject,
}

/// The parts of a token request.
#[derive(Debug)]
struct Credential {
    /// With `null` for the secret.
    identity: Value,
    scope: Scope,
    secret_pointer: &'static str,
    secret: SecretString,
}

/// The files that an account is read from: those of the variables, and the one that `OS_CACERT` names.
pub(super) fn files(source: &SecretSource) -> Vec<PathBuf> {
    let mut files = source.files(&VARIABLES);
    if let Ok(Some(ca_file)) = source.read(CA_VARIABLE) {
        files.push(ca_file.expose_secret().into());
    }
    files
}

impl Account {
    /// Reads the variables and the file of `OS_CACERT`. The error has a line for each problem.
    pub(super) fn read(source: &SecretSource, allow_plaintext: bool) -> Result<Self, Vec<String>> {
        source.check(&VARIABLES)?;
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
                Ok(Self { auth_url, roots, catalog, credential })
            }
            _ => Err(reader.problems),
        }
    }

    /// The body of `POST /v3/auth/tokens`, in memory that is wiped.
    pub(super) fn token_request(&self, target: Target<'_>) -> Bytes {
        let Credential { identity, secret_pointer, secret, .. } = &self.credential;
        let mut auth = json!({"identity": identity});
        if let (Some(scope), Value::Object(auth)) = (self.requested_scope(target), &mut auth) {
            auth.insert("scope".into(), scope);
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

    fn requested_scope(&self, target: Target<'_>) -> Option<Value> {
        let of_id = |id: &ProjectId| json!({"project": {"id": id.as_str()}});
        match (&self.credential.scope, target) {
            (Scope::OfCredential, _) => None,
            (_, Target::NoProject) => Some("unscoped".into()),
            (_, Target::Project(id)) | (Scope::Id(id), Target::OwnProject) => Some(of_id(id)),
            (Scope::Name(name), Target::OwnProject) => Some(json!({"project": name})),
            (Scope::EachProject, Target::OwnProject) => None,
        }
    }

    /// The projects that its tokens are for.
    pub(super) fn scope(&self) -> &Scope {
        &self.credential.scope
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
        let version_length = if lowercase.ends_with("/v3") { 3 } else { 0 };
        let base = url.get(..url.len() - version_length).unwrap_or_default().trim_end_matches('/');
        let url = BaseUrl::parse(&format!("{base}/v3"), allow_plaintext);
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
            scope: Scope::OfCredential,
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
            scope: self.scope(),
            secret_pointer: PASSWORD,
        }
    }

    /// The user's name and domain.
    fn user(&mut self) -> (String, Value) {
        let name = self.text("OS_USERNAME").unwrap_or_else(|| self.missing("OS_USERNAME"));
        let domain = self.domain("OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_NAME");
        (name, domain.unwrap_or_else(|| self.missing("OS_USER_DOMAIN_NAME (or _ID)")))
    }

    /// A project that is named without a domain is in that of the user. If no variable of a project is set, there is a token for
    /// each project.
    fn scope(&mut self) -> Scope {
        let id = self.text("OS_PROJECT_ID");
        let name = self.text("OS_PROJECT_NAME");
        let domain = self.domain("OS_PROJECT_DOMAIN_ID", "OS_PROJECT_DOMAIN_NAME");
        match (id, name, domain) {
            (Some(id), _, _) => {
                let id = ProjectId::parse(id).ok_or_else(|| format!("OS_PROJECT_ID {}", ProjectId::RULE));
                self.report(id).map_or(Scope::EachProject, Scope::Id)
            }
            (None, Some(name), domain) => {
                let domain = domain.or_else(|| self.domain("OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_NAME"));
                Scope::Name(json!({"name": name, "domain": domain}))
            }
            (None, None, None) => Scope::EachProject,
            (None, None, Some(_)) => {
                self.problems.push(format!(
                    "OS_PROJECT_ID (or _NAME) is needed where OS_PROJECT_DOMAIN_NAME (or _ID) is set: {HOW_TO_SET}; or unset the domain to get a token for each project that a call names"
                ));
                Scope::EachProject
            }
        }
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
}
