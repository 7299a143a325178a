//! The account as it is configured: plain data, read at the start and again when its files change.

use super::account::{Account, CA_VARIABLE, VARIABLES};
use crate::credentials::SecretSource;
use crate::files::Loaded;
use crate::http::{Config as HttpConfig, Roots};

/// How tokens are got.
#[derive(Debug)]
pub struct Config {
    /// The account.
    pub account: AccountConfig,
    /// Whether the upstream's endpoint comes out of the catalog.
    pub endpoint_from_catalog: bool,
    /// The connections. The roots of the identity service come with the account.
    pub http: HttpConfig,
}

/// Where the account stands, and the account as it was when the configuration was read.
#[derive(Debug)]
pub struct AccountConfig {
    pub(super) source: AccountSource,
    pub(super) account: Loaded<ServiceAccount>,
}

impl AccountConfig {
    /// Reads the account and the roots of the identity service. With `allow_plaintext` the identity service, and the
    /// endpoint in its catalog, may be `http`. The error has a line for each problem.
    pub fn load(variables: SecretSource, allow_plaintext: bool) -> Result<Self, Vec<String>> {
        let source = AccountSource { variables, allow_plaintext };
        let account = Loaded::read(source.variables.files(&VARIABLES), || ServiceAccount::read(&source))?;
        Ok(Self { source, account })
    }

    /// The roots of the file that `OS_CACERT` names.
    pub(crate) fn custom_roots(&self) -> Option<&Roots> {
        let ServiceAccount { account, roots } = &self.account.value;
        account.ca_file.as_ref().map(|_| roots)
    }
}

#[derive(Debug)]
pub(super) struct AccountSource {
    pub(super) variables: SecretSource,
    pub(super) allow_plaintext: bool,
}

/// An account, and who may sign the certificate of the identity service that it belongs to.
#[derive(Debug)]
pub(super) struct ServiceAccount {
    pub(super) account: Account,
    pub(super) roots: Roots,
}

impl ServiceAccount {
    pub(super) fn read(source: &AccountSource) -> Result<Self, Vec<String>> {
        let account = Account::read(&source.variables, source.allow_plaintext)?;
        let roots = match &account.ca_file {
            Some(file) => {
                Roots::from_pem_file(file.as_ref()).map_err(|why| vec![format!("{CA_VARIABLE} {why}")])?
            }
            None => Roots::system(),
        };
        if roots.is_empty() && !account.auth_url.is_plaintext() {
            return Err(vec![format!("{CA_VARIABLE} is needed: the system has no root certificates")]);
        }
        Ok(Self { account, roots })
    }
}
