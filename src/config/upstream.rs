//! Where the upstream is, and the HTTP connections to it.

use super::flags::ServeFlags;
use super::validator::{Reported, Validator};
use super::value::AuthMode;
use crate::credentials;
use crate::upstream::{self, BaseUrl, HttpConfig, Proxy, Roots, RootsFile};

/// Where the upstream is.
#[derive(Clone, Debug)]
pub enum UpstreamLocation {
    /// At a URL.
    Url(BaseUrl),
    /// In this process: the embedded upstream, on a loopback port, over real HTTP.
    Sandbox,
    /// At the endpoint that the identity service's catalog names.
    Catalog,
}

impl UpstreamLocation {
    /// For people: the host, or where the URL comes from.
    pub(super) fn host(&self) -> String {
        match self {
            Self::Url(url) => url.host_and_port().0,
            Self::Sandbox => "sandbox".to_owned(),
            Self::Catalog => "catalog".to_owned(),
        }
    }
}

/// The end of a URL that the gateway itself appends: `/v2`, `/v2/PROJECT`, or the whole route.
fn own_route(url: &str) -> Option<String> {
    let (_, after_scheme) = url.split_once("://")?;
    let path: Vec<&str> = after_scheme.split('/').skip(1).filter(|segment| !segment.is_empty()).collect();
    let is = |at: usize, name: &str| path.get(at).is_some_and(|segment| segment.eq_ignore_ascii_case(name));
    let end = (0..path.len()).find(|at| is(*at, "os-vendor-backup-sharing")).unwrap_or(path.len());
    let version = (end.saturating_sub(2)..end).find(|at| is(*at, "v2"));
    let route = path.get(version.unwrap_or(end)..)?;
    if route.is_empty() { None } else { Some(format!("/{}", route.join("/"))) }
}

impl ServeFlags {
    pub(super) fn upstream_location(
        &self,
        validator: &mut Validator,
        allow_plaintext: bool,
    ) -> Result<UpstreamLocation, Reported> {
        let sandbox = validator.value(&self.sandbox);
        let Some(flag) = &self.upstream_url else {
            if sandbox? {
                return Ok(UpstreamLocation::Sandbox);
            }
            if self.auth.value == Ok(AuthMode::Keystone) {
                return Ok(UpstreamLocation::Catalog);
            }
            return Err(validator.report("--upstream-url (GATEWAY_UPSTREAM_URL) is required, such as https://vbs.eu-de.otc.t-systems.com; or use --sandbox to try the gateway without an upstream, or --auth keystone to take the URL from the catalog"));
        };
        if sandbox == Ok(true) {
            return Err(validator.report(
                "--sandbox (GATEWAY_SANDBOX) and --upstream-url (GATEWAY_UPSTREAM_URL) exclude each other",
            ));
        }
        let text = validator.value(flag)?;
        let url = BaseUrl::parse(&text, allow_plaintext)
            .map_err(|problem| validator.report(format!("{}: {problem}", flag.name)))?;
        if let Some(route) = own_route(&text) {
            validator.report(format!(
                "{}: remove '{route}': the gateway adds /v2, the project and the rest",
                flag.name
            ));
        }
        Ok(UpstreamLocation::Url(url))
    }

    pub(super) fn upstream(
        &self,
        validator: &mut Validator,
        max_in_flight: Result<usize, Reported>,
        location: &Result<UpstreamLocation, Reported>,
        credentials: &Result<credentials::Config, Reported>,
    ) -> Result<upstream::Config, Reported> {
        let ca_file = validator.optional(&self.upstream_ca);
        let roots = match &ca_file {
            Ok(file) => Self::roots(validator, file.as_ref(), location, credentials),
            Err(reported) => Err(*reported),
        };
        let proxy = self.proxy(validator, location);
        let connect_timeout = validator.value(&self.connect_timeout);
        let idle_timeout = validator.value(&self.upstream_idle_timeout);
        let connection_lifetime = validator.value(&self.upstream_connection_lifetime);
        let max_response_bytes = validator.value(&self.max_response_bytes);
        let attempt_timeout = validator.value(&self.attempt_timeout);
        let max_attempts = validator.value(&self.max_attempts);
        Ok(upstream::Config {
            http: HttpConfig {
                roots: roots?,
                proxy: proxy?,
                connect_timeout: connect_timeout?,
                // A call opens one connection at a time, so it waits only for those whose calls are over.
                max_connecting: max_in_flight?,
                idle_timeout: idle_timeout?,
                connection_lifetime: connection_lifetime?,
                max_response_bytes: max_response_bytes?,
            },
            ca_file: ca_file?,
            attempt_timeout: attempt_timeout?,
            max_attempts: max_attempts?,
            first_backoff: upstream::FIRST_BACKOFF,
        })
    }

    fn proxy(
        &self,
        validator: &mut Validator,
        location: &Result<UpstreamLocation, Reported>,
    ) -> Result<Option<Proxy>, Reported> {
        let Some(flag) = &self.upstream_proxy else { return Ok(None) };
        // The HTTP client compares the certificate behind a tunnel with the host as it is written in the URL, and no certificate
        // name has the brackets of an IPv6 address.
        if let Ok(UpstreamLocation::Url(url)) = location
            && url.is_https_to_ipv6()
        {
            validator.report("--upstream-url (GATEWAY_UPSTREAM_URL) must have a name in place of an IPv6 address if --upstream-proxy (GATEWAY_UPSTREAM_PROXY) is set: TLS to an IPv6 address through a proxy is not supported");
        }
        Ok(Some(validator.value(flag)?))
    }

    /// The CA certificates that verify the upstream: its own, those of the account, or the system's.
    fn roots(
        validator: &mut Validator,
        ca_file: Option<&RootsFile>,
        location: &Result<UpstreamLocation, Reported>,
        credentials: &Result<credentials::Config, Reported>,
    ) -> Result<Roots, Reported> {
        if let Some(file) = ca_file {
            return Ok(file.roots().clone());
        }
        // The catalog may name an http URL, which needs no certificate.
        let is_https = matches!(location.as_ref()?, UpstreamLocation::Url(url) if !url.is_plaintext());
        let roots = match (credentials.as_ref()?, location.as_ref()?) {
            // OpenStack uses the file of OS_CACERT for every service, not only for the identity service.
            (credentials::Config::Keystone(keystone), _) => keystone.account.roots().clone(),
            (_, UpstreamLocation::Catalog) => Roots::system(),
            (_, UpstreamLocation::Url(_)) if is_https => Roots::system(),
            (_, UpstreamLocation::Url(_) | UpstreamLocation::Sandbox) => Roots::none(),
        };
        if is_https && roots.is_empty() {
            return Err(validator.report(
                "--upstream-ca (GATEWAY_UPSTREAM_CA) is required: the system has no root certificates",
            ));
        }
        Ok(roots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_of_the_gateway_is_found_at_the_end_of_a_url() {
        for (url, route) in [
            ("https://vbs.example", None),
            ("https://vbs.example:8443/", None),
            ("https://proxy.example/vbs", None),
            ("https://v2.example", None),
            ("https://v2", None),
            ("https://proxy.example/v2/eu/vbs", None),
            ("https://vbs.example/v2", Some("/v2")),
            ("https://vbs.example/v2/", Some("/v2")),
            ("https://vbs.example/v2/v2x", Some("/v2/v2x")),
            ("https://vbs.example/v20", None),
            ("https://vbs.example/v2/17fbda95", Some("/v2/17fbda95")),
            ("https://proxy.example/vbs/v2/17fbda95/", Some("/v2/17fbda95")),
            ("HTTPS://vbs.example/V2/17fbda95", Some("/V2/17fbda95")),
            ("https://vbs.example//v2//17fbda95//", Some("/v2/17fbda95")),
            ("https://vbs.example/v2/p/os-vendor-backup-sharing", Some("/v2/p/os-vendor-backup-sharing")),
            ("https://vbs.example/os-vendor-backup-sharing/detail", Some("/os-vendor-backup-sharing/detail")),
        ] {
            assert_eq!(own_route(url).as_deref(), route, "{url}");
        }
    }
}
