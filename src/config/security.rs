//! TLS, authorization rules, and the credential for the upstream. An error never leads to a default here: a setting that
//! cannot be read must not open access.

use std::collections::HashMap;
use std::env::VarError;
use std::path::PathBuf;

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::flags::ServeFlags;
use super::settings;
use super::validator::{Reported, Validator};
use super::value::AuthMode;
use crate::credentials::{
    self, AKSK_VARIABLES, AccountConfig, AkSk, KEYSTONE_VARIABLES, KeystoneConfig, SecretSource,
    ignored_variables,
};
use crate::grpc::{AuthorizationPolicy, Rules};
use crate::server::{Tls, TlsFiles};

impl ServeFlags {
    pub(super) fn tls(&self, validator: &mut Validator) -> Result<Option<Tls>, Reported> {
        const CERT: &str = "--tls-cert (GATEWAY_TLS_CERT)";
        const KEY: &str = "--tls-key (GATEWAY_TLS_KEY)";
        const CLIENT_CA: &str = "--tls-client-ca (GATEWAY_TLS_CLIENT_CA)";
        let certificate = validator.optional(&self.tls_cert);
        let key = validator.optional(&self.tls_key);
        let client_ca = validator.optional(&self.tls_client_ca);
        let missing = match (certificate?, key?, client_ca?) {
            (None, None, None) => return Ok(None),
            (Some(certificate), Some(key), client_ca) => {
                let files = TlsFiles { certificate, key, client_ca };
                // Each file is valid by itself.
                let problem = |problem| validator.report(format!("{CERT}, {KEY}: {problem}"));
                return Tls::load(files).map(Some).map_err(problem);
            }
            (Some(_), None, _) => format!("{KEY} is missing: {CERT} and {KEY} go together"),
            (None, Some(_), _) => format!("{CERT} is missing: {CERT} and {KEY} go together"),
            (None, None, Some(_)) => format!("{CLIENT_CA} needs {CERT} and {KEY}, which go together"),
        };
        Err(validator.report(missing))
    }

    /// The one decision whether access is restricted by rules: a source that is given and has no rule admits no caller.
    pub(super) fn authorization(
        &self,
        validator: &mut Validator,
    ) -> Result<Option<AuthorizationPolicy>, Reported> {
        if self.allow.is_empty() && self.allow_file.is_none() {
            return Ok(None);
        }
        if self.tls_client_ca.is_none() {
            validator.report("--allow (GATEWAY_ALLOW) and --allow-file (GATEWAY_ALLOW_FILE) need --tls-client-ca (GATEWAY_TLS_CLIENT_CA): the rules name callers by their certificates");
        }
        let lists: Vec<_> = self.allow.iter().map(|list| validator.value(list)).collect();
        let file = validator.optional(&self.allow_file);
        let mut rules = Rules::default();
        for list in lists {
            rules.extend(list?);
        }
        let policy = AuthorizationPolicy::load(rules, file?);
        Ok(Some(validator.check_all("--allow-file (GATEWAY_ALLOW_FILE): ", policy)?))
    }

    /// The credential for the upstream, with the gateway's own account or keys, if the mode has one.
    pub(super) fn credentials(
        &self,
        validator: &mut Validator,
        allow_plaintext: bool,
        authorization: &Result<Option<AuthorizationPolicy>, Reported>,
    ) -> Result<credentials::Config, Reported> {
        let mode = validator.value(&self.auth);
        let scheme = validator.value(&self.aksk_scheme);
        let secrets_dir = validator.optional(&self.secrets_dir);
        match mode? {
            AuthMode::PassThrough => {
                if secrets_dir?.is_some() {
                    validator.warnings.push("--secrets-dir (GATEWAY_SECRETS_DIR) is ignored: the gateway holds no credential with --auth passthrough; set --auth (GATEWAY_AUTH) to keystone or aksk".into());
                }
                Ok(credentials::Config::PassThrough)
            }
            AuthMode::Keystone => {
                self.require_rules(validator, "--auth keystone (GATEWAY_AUTH)", authorization);
                let source = secret_source(validator, secrets_dir?, &KEYSTONE_VARIABLES);
                validator.warnings.extend(ignored_variables(&source));
                let account = AccountConfig::load(source, allow_plaintext);
                let account = validator.check_all("--auth keystone (GATEWAY_AUTH): ", account)?;
                if let (Some(own), Ok(Some(policy))) = (account.scope().project_id(), authorization)
                    && let Some(conflict) = policy.conflict_with(own)
                {
                    validator.report(format!(
                        "--allow (GATEWAY_ALLOW), --allow-file (GATEWAY_ALLOW_FILE): {conflict}"
                    ));
                }
                let endpoint_from_catalog = self.upstream_url.is_none();
                let keystone = KeystoneConfig { account, endpoint_from_catalog };
                Ok(credentials::Config::Keystone(Box::new(keystone)))
            }
            AuthMode::AkSk => {
                self.require_rules(validator, "--auth aksk (GATEWAY_AUTH)", authorization);
                let source = secret_source(validator, secrets_dir?, AKSK_VARIABLES);
                let keys = AkSk::load(source)
                    .map_err(|problem| validator.report(format!("--auth aksk (GATEWAY_AUTH): {problem}")))?;
                Ok(credentials::Config::AkSk(keys, scheme?))
            }
        }
    }

    /// Every caller that is let in uses the gateway's own credential, so callers must be authenticated and authorized.
    fn require_rules(
        &self,
        validator: &mut Validator,
        mode: &str,
        authorization: &Result<Option<AuthorizationPolicy>, Reported>,
    ) {
        if self.tls_client_ca.is_none() || matches!(authorization, Ok(None)) {
            validator.report(format!("{mode} lets callers use the gateway's own credential: it requires mutual TLS (--tls-cert, --tls-key, --tls-client-ca) and rules (--allow or --allow-file)"));
        }
    }
}

/// The directory, and those of the variables that are set.
fn secret_source(
    validator: &mut Validator,
    directory: Option<PathBuf>,
    names: &[&'static str],
) -> SecretSource {
    let mut variables = HashMap::new();
    for name in names {
        let file = directory.as_ref().map(|directory| directory.join(name)).filter(|file| file.exists());
        let value = std::env::var(name).map(Zeroizing::new);
        match (&file, &value) {
            (Some(file), _) => validator.settings.push(format!("{name} (file {})", file.display())),
            (None, Ok(value)) if !value.is_empty() => {
                validator.settings.push(settings::of_variable(name, value));
            }
            (None, Ok(_) | Err(_)) => {}
        }
        match value {
            Ok(value) => {
                variables.insert(*name, SecretString::from(value.as_str()));
            }
            Err(VarError::NotPresent) => {}
            Err(VarError::NotUnicode(_)) => {
                validator.report(format!("{name} is not UTF-8"));
            }
        }
    }
    SecretSource { directory, variables }
}
