//! TLS, authorization rules, and the credential for the upstream. An error never leads to a default here: a setting that
//! cannot be read must not open access.

use std::collections::HashMap;
use std::env::VarError;

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::flags::ServeFlags;
use super::validator::{Reported, Validator};
use super::value::AuthMode;
use crate::credentials::{
    self, AKSK_VARIABLES, AccountConfig, AkSk, KEYSTONE_VARIABLES, KeystoneConfig, Scheme, SecretSource,
};
use crate::grpc::AuthorizationPolicy;
use crate::server::{Tls, TlsFiles};
use crate::upstream::HttpConfig;

/// The credential for the upstream, as it was read. The connections to the identity service are added later.
pub(super) enum Auth {
    PassThrough,
    Keystone(Box<AccountConfig>),
    AkSk(AkSk, Scheme),
}

impl ServeFlags {
    pub(super) fn tls(&self, validator: &mut Validator) -> Result<Option<Tls>, Reported> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                let certificate = validator.value(certificate);
                let key = validator.value(key);
                let client_ca = validator.optional(self.tls_client_ca.as_ref());
                let files = TlsFiles { certificate: certificate?, key: key?, client_ca: client_ca? };
                let config = Tls::load(files).map_err(|problem| {
                    validator.report(format!("--tls-cert (GATEWAY_TLS_CERT), --tls-key (GATEWAY_TLS_KEY), --tls-client-ca (GATEWAY_TLS_CLIENT_CA): {problem}"))
                })?;
                Ok(Some(config))
            }
            (None, None) if self.tls_client_ca.is_none() => Ok(None),
            _ => Err(validator.report("--tls-cert (GATEWAY_TLS_CERT) and --tls-key (GATEWAY_TLS_KEY) go together, and --tls-client-ca (GATEWAY_TLS_CLIENT_CA) needs both")),
        }
    }

    pub(super) fn authorization(
        &self,
        validator: &mut Validator,
    ) -> Result<Option<AuthorizationPolicy>, Reported> {
        if !self.has_rules() {
            return Ok(None);
        }
        if self.tls_client_ca.is_none() {
            validator.report("--allow (GATEWAY_ALLOW) and --allow-file (GATEWAY_ALLOW_FILE) need --tls-client-ca (GATEWAY_TLS_CLIENT_CA): the rules name callers by their certificates");
        }
        let lists: Vec<_> = self.allow.iter().map(|list| validator.value(list)).collect();
        let file = validator.optional(self.allow_file.as_ref());
        let mut rules = Vec::new();
        for list in lists {
            rules.extend(list?.0);
        }
        let config = AuthorizationPolicy::load(rules, file?);
        Ok(Some(validator.check_all("--allow (GATEWAY_ALLOW), --allow-file (GATEWAY_ALLOW_FILE): ", config)?))
    }

    /// Whether access is restricted by rules. It does not depend on what the rules say: a source without a rule allows nothing.
    fn has_rules(&self) -> bool {
        !self.allow.is_empty() || self.allow_file.is_some()
    }

    /// Reads the gateway's own account or keys, if the mode has one.
    pub(super) fn auth(
        &self,
        validator: &mut Validator,
        mode: Result<AuthMode, Reported>,
        allow_plaintext: bool,
    ) -> Result<Auth, Reported> {
        let scheme = validator.value(&self.aksk_scheme);
        let secrets_dir = validator.optional(self.secrets_dir.as_ref());
        match mode? {
            AuthMode::PassThrough => Ok(Auth::PassThrough),
            AuthMode::Keystone => {
                self.require_rules(validator, "--auth keystone (GATEWAY_AUTH)");
                let variables = SecretSource {
                    directory: secrets_dir?,
                    variables: variables(validator, &KEYSTONE_VARIABLES),
                };
                let account = AccountConfig::load(variables, allow_plaintext);
                let account = validator.check_all("--auth keystone (GATEWAY_AUTH): ", account)?;
                Ok(Auth::Keystone(Box::new(account)))
            }
            AuthMode::AkSk => {
                self.require_rules(validator, "--auth aksk (GATEWAY_AUTH)");
                let variables =
                    SecretSource { directory: secrets_dir?, variables: variables(validator, AKSK_VARIABLES) };
                let keys = AkSk::load(variables)
                    .map_err(|problem| validator.report(format!("--auth aksk (GATEWAY_AUTH): {problem}")))?;
                Ok(Auth::AkSk(keys, scheme?))
            }
        }
    }

    /// What `auth` has read, with the connections to the identity service.
    pub(super) fn credentials(&self, auth: Auth, http: &HttpConfig) -> credentials::Config {
        match auth {
            Auth::PassThrough => credentials::Config::PassThrough,
            Auth::AkSk(keys, scheme) => credentials::Config::AkSk(keys, scheme),
            Auth::Keystone(account) => credentials::Config::Keystone(Box::new(KeystoneConfig {
                account: *account,
                endpoint_from_catalog: self.upstream_url.is_none(),
                http: http.clone(),
            })),
        }
    }

    /// Every caller that is let in uses the gateway's own credential, so callers must be authenticated and authorized.
    fn require_rules(&self, validator: &mut Validator, mode: &str) {
        if self.tls_client_ca.is_none() || !self.has_rules() {
            validator.report(format!("{mode} lets callers use the gateway's own credential: it requires mutual TLS (--tls-cert, --tls-key, --tls-client-ca) and rules (--allow or --allow-file)"));
        }
    }
}

/// The variables that are set.
fn variables(validator: &mut Validator, names: &[&'static str]) -> HashMap<&'static str, SecretString> {
    let mut set = HashMap::new();
    for name in names {
        match std::env::var(name).map(Zeroizing::new) {
            Ok(value) => {
                set.insert(*name, SecretString::from(value.as_str()));
            }
            Err(VarError::NotPresent) => {}
            Err(VarError::NotUnicode(_)) => {
                validator.report(format!("{name} is not UTF-8"));
            }
        }
    }
    set
}
