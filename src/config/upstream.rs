//! The flags about the upstream: where it is, and the HTTP connections to it.

use std::path::Path;

use super::flags::ServeFlags;
use super::security::Auth;
use super::units;
use super::validator::{Reported, Validator};
use crate::upstream::{self, BaseUrl, HttpConfig, Proxy, Roots};

/// Where the upstream is.
#[derive(Clone, Debug)]
pub enum UpstreamLocation {
    /// At a URL.
    Url(BaseUrl),
    /// In this process: the embedded one, on a loopback port, over real HTTP.
    Sandbox,
    /// Where the identity service's catalog says.
    Catalog,
}

/// A bound that catches a slip of the finger.
const MAX_ATTEMPTS: u32 = 10;

impl ServeFlags {
    pub(super) fn upstream_location(
        &self,
        validator: &mut Validator,
        plaintext: Result<bool, Reported>,
    ) -> Result<UpstreamLocation, Reported> {
        let sandbox = validator.bool("sandbox", &self.sandbox);
        match &self.upstream_url {
            Some(_) if matches!(sandbox, Ok(true)) => Err(validator.report(
                "--sandbox (GATEWAY_SANDBOX) and --upstream-url (GATEWAY_UPSTREAM_URL) exclude each other",
            )),
            Some(text) => {
                // Where the flag cannot be read, it allows nothing.
                let plaintext = plaintext.unwrap_or(false);
                let url = validator.value("upstream-url", text, |text| parse_url(text, plaintext))?;
                Ok(UpstreamLocation::Url(url))
            }
            None if sandbox? => Ok(UpstreamLocation::Sandbox),
            None if self.is_keystone() => Ok(UpstreamLocation::Catalog),
            None => Err(validator.report("--upstream-url (GATEWAY_UPSTREAM_URL) is needed, such as https://vbs.eu-de.otc.t-systems.com; --sandbox tries the gateway without one, and --auth keystone finds it in the catalog")),
        }
    }

    pub(super) fn upstream(
        &self,
        validator: &mut Validator,
        location: &Result<UpstreamLocation, Reported>,
        auth: &Result<Auth, Reported>,
    ) -> Result<upstream::Config, Reported> {
        let roots = self.roots(validator, location, auth);
        self.check_tunnel(validator, location);
        let proxy = match &self.upstream_proxy {
            Some(text) => validator.value("upstream-proxy", text, Proxy::parse).map(Some),
            None => Ok(None),
        };
        let connect_timeout = validator.duration("connect-timeout", &self.connect_timeout);
        let idle_timeout = validator.duration("upstream-idle-timeout", &self.upstream_idle_timeout);
        let connection_lifetime =
            validator.duration("upstream-connection-lifetime", &self.upstream_connection_lifetime);
        let max_response_bytes =
            validator.value("max-response-bytes", &self.max_response_bytes, units::bytes);
        let attempt_timeout = validator.duration("attempt-timeout", &self.attempt_timeout);
        let max_attempts = validator.count("max-attempts", &self.max_attempts, MAX_ATTEMPTS);
        Ok(upstream::Config {
            http: HttpConfig {
                roots: roots?,
                proxy: proxy?,
                connect_timeout: connect_timeout?,
                idle_timeout: idle_timeout?,
                connection_lifetime: connection_lifetime?,
                max_response_bytes: max_response_bytes?,
            },
            attempt_timeout: attempt_timeout?,
            max_attempts: max_attempts?,
            first_backoff: upstream::FIRST_BACKOFF,
        })
    }

    /// The HTTP client compares the certificate behind a tunnel with the host as it is written in the URL, and the brackets of
    /// an IPv6 address belong to no name.
    fn check_tunnel(&self, validator: &mut Validator, location: &Result<UpstreamLocation, Reported>) {
        if let Ok(UpstreamLocation::Url(url)) = location
            && self.upstream_proxy.is_some()
            && url.is_https_to_ipv6()
        {
            validator.report("--upstream-url (GATEWAY_UPSTREAM_URL) must have a name in place of an IPv6 address where --upstream-proxy (GATEWAY_UPSTREAM_PROXY) is set: TLS through the proxy's tunnel is not possible to such an address");
        }
    }

    /// Who may sign the upstream's certificate.
    fn roots(
        &self,
        validator: &mut Validator,
        location: &Result<UpstreamLocation, Reported>,
        auth: &Result<Auth, Reported>,
    ) -> Result<Roots, Reported> {
        if let Some(file) = &self.upstream_ca {
            return validator.value("upstream-ca", file, |file| Roots::from_pem_file(Path::new(file)));
        }
        // OpenStack's CA file is for every service, not for the identity service alone.
        if let Auth::Keystone(account) = auth.as_ref()?
            && let Some(roots) = account.custom_roots()
        {
            return Ok(roots.clone());
        }
        let is_plaintext = match location.as_ref()? {
            UpstreamLocation::Url(url) => url.is_plaintext(),
            UpstreamLocation::Sandbox => true,
            UpstreamLocation::Catalog => false,
        };
        if is_plaintext {
            return Ok(Roots::none());
        }
        let roots = Roots::system();
        // A catalog may still say http.
        if roots.is_empty() && self.upstream_url.is_some() {
            return Err(validator.report(
                "--upstream-ca (GATEWAY_UPSTREAM_CA) is needed: the system has no root certificates",
            ));
        }
        Ok(roots)
    }
}

fn parse_url(text: &str, plaintext: bool) -> Result<BaseUrl, String> {
    const HINT: &str = "; --allow-plaintext-upstream (GATEWAY_ALLOW_PLAINTEXT_UPSTREAM) allows it";
    BaseUrl::parse(text, plaintext).map_err(|why| {
        let is_plaintext = BaseUrl::parse(text, true).is_ok();
        if is_plaintext { format!("{why}{HINT}") } else { why }
    })
}
