//! The flags that keep strangers out: TLS, rules, and whose credential goes upstream. Nothing here has a default to fall
//! back on after an error.

use std::collections::HashMap;
use std::env::VarError;

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::flags::ServeFlags;
use super::validator::{Reported, Validator};
use crate::credentials::{
    self, AKSK_VARIABLES, AccountConfig, AkSkConfig, KEYSTONE_VARIABLES, KeystoneConfig, LoadedKeys, Scheme,
    SecretSource,
};
use crate::grpc::AuthorizationConfig;
use crate::server::{TlsConfig, TlsFiles};
use crate::upstream::HttpConfig;

/// Whose credential goes upstream, with what was read of it.
pub(super) enum Auth {
    PassThrough,
    Keystone(Box<AccountConfig>),
    AkSk(AkSkConfig),
}

#[derive(Clone, Copy)]
enum AuthMode {
    PassThrough,
    Keystone,
    AkSk,
}

impl ServeFlags {
    pub(super) fn tls(&self, validator: &mut Validator) -> Result<Option<TlsConfig>, Reported> {
        let files = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: self.tls_client_ca.clone(),
            },
            (None, None) if self.tls_client_ca.is_none() => return Ok(None),
            _ => return Err(validator.report("--tls-cert (GATEWAY_TLS_CERT) and --tls-key (GATEWAY_TLS_KEY) go together, and --tls-client-ca (GATEWAY_TLS_CLIENT_CA) needs both")),
        };
        let loaded = TlsConfig::load(files);
        let loaded = loaded.map_err(|why| {
            validator.report(format!("--tls-cert, --tls-key, --tls-client-ca (GATEWAY_TLS_…) {why}"))
        })?;
        Ok(Some(loaded))
    }

    pub(super) fn authorization(
        &self,
        validator: &mut Validator,
    ) -> Result<Option<AuthorizationConfig>, Reported> {
        let rules: Vec<String> = self.allow.iter().filter(|rule| !rule.is_empty()).cloned().collect();
        if rules.is_empty() && self.allow_file.is_none() {
            return Ok(None);
        }
        if self.tls_client_ca.is_none() {
            validator.report("--allow (GATEWAY_ALLOW) and --allow-file (GATEWAY_ALLOW_FILE) need --tls-client-ca (GATEWAY_TLS_CLIENT_CA): without it callers cannot prove who they are");
        }
        let loaded = AuthorizationConfig::load(rules, self.allow_file.clone());
        let loaded =
            validator.check_all("--allow (GATEWAY_ALLOW), --allow-file (GATEWAY_ALLOW_FILE) ", loaded)?;
        Ok(Some(loaded))
    }

    /// Reads the gateway's own account or keys, where the mode has one.
    pub(super) fn auth(
        &self,
        validator: &mut Validator,
        plaintext: Result<bool, Reported>,
    ) -> Result<Auth, Reported> {
        let scheme = validator.value("aksk-scheme", &self.aksk_scheme, |text| match text {
            "sdk" => Ok(Scheme::Sdk),
            "legacy" => Ok(Scheme::Legacy),
            _ => Err("must be sdk or legacy".into()),
        });
        let mode = validator.value("auth", &self.auth, |text| match text {
            "passthrough" => Ok(AuthMode::PassThrough),
            "keystone" => Ok(AuthMode::Keystone),
            "aksk" => Ok(AuthMode::AkSk),
            _ => Err("must be passthrough, keystone or aksk".into()),
        })?;
        let about = format!("--auth {} (GATEWAY_AUTH): ", self.auth);
        match mode {
            AuthMode::PassThrough => Ok(Auth::PassThrough),
            AuthMode::Keystone => {
                self.require_rules(validator);
                let variables = self.variables(validator, &KEYSTONE_VARIABLES);
                // Where the flag cannot be read, it allows nothing.
                let account = AccountConfig::load(variables, plaintext.unwrap_or(false));
                Ok(Auth::Keystone(Box::new(validator.check_all(&about, account)?)))
            }
            AuthMode::AkSk => {
                self.require_rules(validator);
                let variables = self.variables(validator, AKSK_VARIABLES);
                let keys = LoadedKeys::load(variables);
                let keys = keys.map_err(|why| validator.report(format!("{about}{why}")))?;
                Ok(Auth::AkSk(AkSkConfig { keys, scheme: scheme? }))
            }
        }
    }

    /// What `auth` has read, with the connections to the identity service.
    pub(super) fn credentials(&self, auth: Auth, http: &HttpConfig) -> credentials::Config {
        match auth {
            Auth::PassThrough => credentials::Config::PassThrough,
            Auth::AkSk(keys) => credentials::Config::AkSk(keys),
            Auth::Keystone(account) => credentials::Config::Keystone(Box::new(KeystoneConfig {
                account: *account,
                endpoint_from_catalog: self.upstream_url.is_none(),
                http: http.clone(),
            })),
        }
    }

    pub(super) fn is_keystone(&self) -> bool {
        self.auth == "keystone"
    }

    /// Whoever is let in uses the gateway's own credential.
    fn require_rules(&self, validator: &mut Validator) {
        if self.tls_client_ca.is_none() || (self.allow.is_empty() && self.allow_file.is_none()) {
            validator.report(format!("--auth {} (GATEWAY_AUTH) lends the gateway's own rights to its callers, so they must prove who they are (--tls-cert, --tls-key, --tls-client-ca) and rules must say what each may read (--allow or --allow-file)", self.auth));
        }
    }

    /// The variables that are set, and the directory whose files take their place.
    fn variables(&self, validator: &mut Validator, names: &[&'static str]) -> SecretSource {
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
        SecretSource { directory: self.secrets_dir.clone(), variables: set }
    }
}
