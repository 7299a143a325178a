//! The JSON document of a token: its lifetime and its service catalog.
//!
//! Source: [Identity API v3](https://docs.openstack.org/api-ref/identity/v3/), response of `POST /v3/auth/tokens`. Only what is
//! read must be well-formed: services and endpoints that are not are skipped. This module is pure.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::domain::{Object, Timestamp};
use crate::http::BaseUrl;

/// The types under which a catalog lists VBS, in the order in which they are looked for.
const SERVICE_TYPES: [&str; 2] = ["vbsv2", "vbs"];

/// Which endpoint of the catalog is wanted.
#[derive(Debug)]
pub(super) struct CatalogQuery {
    /// The region; any if there is only one.
    pub(super) region: Option<String>,
    /// `public`, `internal` or `admin`.
    pub(super) interface: &'static str,
    /// Whether the URL may be `http`.
    pub(super) allow_plaintext: bool,
}

/// The parts of the document that are read. A value of a wrong type matters only where it is used.
#[derive(Debug, Deserialize)]
pub(super) struct TokenDocument {
    #[serde(default)]
    expires_at: Value,
    #[serde(default)]
    issued_at: Value,
    #[serde(default)]
    project: Value,
    #[serde(default, deserialize_with = "well_formed")]
    catalog: Vec<Service>,
}

#[derive(Debug, Deserialize)]
struct Service {
    #[serde(rename = "type")]
    service_type: String,
    #[serde(deserialize_with = "well_formed")]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    interface: String,
    #[serde(default)]
    region: Value,
    #[serde(default)]
    region_id: Value,
    url: String,
}

impl Endpoint {
    /// All regions (`*`) if it names none, and `None` if what it names is no text: it is in no region then.
    fn region(&self) -> Option<&str> {
        let mut named = [&self.region, &self.region_id].into_iter().filter(|region| !region.is_null());
        named.next().map_or(Some("*"), Value::as_str)
    }
}

/// The entries of a list, without those that are not well-formed. What is no list has none.
fn well_formed<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let entries = if let Value::Array(entries) = value { entries } else { Vec::new() };
    let well_formed = |entry| Object::deserialize(entry).ok().map(|object| object.value);
    Ok(entries.into_iter().filter_map(well_formed).collect())
}

impl TokenDocument {
    /// Parses the body of a response. The error gives the position and no text, which may hold anything.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Response {
            token: Object<TokenDocument>,
        }
        let response: Result<Object<Response>, _> = serde_json::from_slice(body);
        response
            .map(|response| response.value.token.value)
            .map_err(|error| format!("cannot be parsed at line {}, column {}", error.line(), error.column()))
    }

    /// How long the token is valid, by the clock of the identity service, which ours need not agree with.
    pub(super) fn lifetime(&self) -> Result<Duration, &'static str> {
        let seconds = |time: &Value| time.as_str().and_then(Timestamp::parse).map(|time| time.seconds);
        let expires = seconds(&self.expires_at).ok_or("has an invalid expires_at")?;
        let issued = if self.issued_at.is_null() {
            jiff::Timestamp::now().as_second()
        } else {
            seconds(&self.issued_at).ok_or("has an invalid issued_at")?
        };
        let lifetime = Duration::from_secs(u64::try_from(expires.saturating_sub(issued)).unwrap_or_default());
        if lifetime.is_zero() {
            return Err("has a token that has already expired");
        }
        // The times are truncated to whole seconds, so that a token may expire up to one second earlier.
        Ok(lifetime.saturating_sub(Duration::from_secs(1)).max(lifetime / 2))
    }

    /// The project that the token is for.
    pub(super) fn project_id(&self) -> Option<&str> {
        self.project.get("id")?.as_str()
    }

    /// The upstream's URL, without the path that each call adds.
    pub(super) fn endpoint(&self, query: &CatalogQuery) -> Result<BaseUrl, String> {
        for service_type in SERVICE_TYPES {
            let services = self.catalog.iter().filter(|service| service.service_type == service_type);
            let endpoints = services.flat_map(|service| &service.endpoints);
            let is_usable =
                |endpoint: &&Endpoint| endpoint.interface == query.interface && endpoint.region().is_some();
            if let Some(Endpoint { url, .. }) =
                choose(endpoints.filter(is_usable).collect(), query.region.as_deref())?
            {
                return self.base_url(url, query.allow_plaintext).map_err(|why| {
                    format!(
                        "the catalog's URL of the upstream {why}; correct the catalog or set --upstream-url"
                    )
                });
            }
        }
        Err(format!(
            "the catalog has no {} endpoint of type {} for the region {} (OS_REGION_NAME, OS_INTERFACE); it has {}; or set --upstream-url",
            query.interface,
            SERVICE_TYPES.join(" or "),
            query.region.as_deref().unwrap_or("any"),
            self.available_endpoints(),
        ))
    }

    /// `https://host/v2/PROJECT` without version and project, which each call adds.
    fn base_url(&self, url: &str, allow_plaintext: bool) -> Result<BaseUrl, String> {
        if let Some((_, placeholder)) = ["$(", "%(", "{"].iter().find_map(|start| url.split_once(start)) {
            let name: String = placeholder.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            return Err(format!("still has the placeholder {name}, which the identity service must replace"));
        }
        let whole = BaseUrl::parse(url, allow_plaintext)?;
        let (parent, last) = url.trim_end_matches('/').rsplit_once('/').unwrap_or_default();
        let (base, version) =
            if is_version(last) { (parent, last) } else { parent.rsplit_once('/').unwrap_or_default() };
        if version == "v2" {
            BaseUrl::parse(base, allow_plaintext)
        } else if is_version(version) {
            Err(format!("is of version {version}, not v2"))
        } else if self.project_id() == Some(last) {
            BaseUrl::parse(parent, allow_plaintext)
        } else {
            Ok(whole)
        }
    }

    fn available_endpoints(&self) -> String {
        let endpoints = self.catalog.iter().flat_map(|Service { service_type, endpoints }| {
            let describe = move |endpoint: &Endpoint| {
                format!("{service_type} ({} {})", endpoint.interface, endpoint.region().unwrap_or("?"))
            };
            endpoints.iter().map(describe)
        });
        let list = sorted(endpoints);
        if list.is_empty() { "nothing".into() } else { list }
    }
}

/// The endpoint in this region, else in all regions (`*`). Without a region, all endpoints must have the same URL.
fn choose<'a>(endpoints: Vec<&'a Endpoint>, region: Option<&str>) -> Result<Option<&'a Endpoint>, String> {
    if let Some(region) = region {
        let within = |region: &str| endpoints.iter().find(|endpoint| endpoint.region() == Some(region));
        return Ok(within(region).or_else(|| within("*")).copied());
    }
    let urls: BTreeSet<&str> = endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect();
    if urls.len() <= 1 {
        return Ok(endpoints.first().copied());
    }
    let regions = sorted(endpoints.iter().filter_map(|endpoint| endpoint.region()).map(str::to_owned));
    Err(format!("the catalog has the upstream in several regions ({regions}): set OS_REGION_NAME"))
}

/// A path segment such as `v2` or `v2.0`.
fn is_version(segment: &str) -> bool {
    let number = segment.strip_prefix('v').unwrap_or_default();
    number.starts_with(|c: char| c.is_ascii_digit())
        && number.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// The texts in order, each once.
fn sorted(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(token: &Value) -> TokenDocument {
        TokenDocument::parse(json!({ "token": token }).to_string().as_bytes()).unwrap()
    }

    const EXPIRES: &str = "2026-11-24T08:00:00Z";

    fn endpoint(document: &TokenDocument, region: Option<&str>) -> Result<String, String> {
        let region = region.map(str::to_owned);
        let query = CatalogQuery { region, interface: "public", allow_plaintext: false };
        document.endpoint(&query).map(|url| url.to_string())
    }

    fn vbs(url: &str) -> Value {
        json!({"interface": "public", "region": "eu-de", "region_id": 1, "url": url})
    }

    #[test]
    fn entries_that_are_not_read_need_not_be_well_formed() {
        let right = vbs("https://vbs.example/v2/p");
        let wrong = "https://x/v2/p";
        let odd_endpoints = json!([null, 1, "x", [], ["public", "eu-de", null, wrong], {},
            {"url": null, "interface": "public", "region": "eu-de"}, {"interface": "public", "region": "eu-de"},
            {"url": 1, "interface": "public", "region": "eu-de"}, {"url": wrong, "region": "eu-de"},
            {"url": wrong, "interface": null, "region": "eu-de"}, {"url": wrong, "interface": "public", "region": 1},
            {"url": wrong, "interface": "public", "region": 1, "region_id": "eu-de"}, right]);
        for catalog in [
            json!([null, 1, "x", [], ["vbsv2", [right]], {"type": null, "endpoints": []}, {"endpoints": []},
                {"type": 1, "endpoints": [right]}, {"type": "evs", "endpoints": null}, {"type": "evs", "endpoints": {}},
                {"type": "evs"}, {"type": "vbsv2", "endpoints": null}, {"type": "vbsv2"}, {"type": "vbsv2", "endpoints": "x"},
                {"type": "vbs", "name": 1, "id": null, "endpoints": [right]}]),
            json!([{"type": "vbsv2", "endpoints": odd_endpoints}]),
        ] {
            for project in
                [json!({"id": "p", "name": 1}), json!({}), json!(null), json!({"id": 1}), json!("p")]
            {
                let document = parse(
                    &json!({"expires_at": EXPIRES, "user": 1, "roles": null, "project": project, "catalog": catalog}),
                );
                for region in [Some("eu-de"), None] {
                    assert_eq!(
                        endpoint(&document, region).unwrap(),
                        "https://vbs.example/",
                        "{catalog} {project}"
                    );
                }
                assert_eq!(document.project_id(), (project["id"] == "p").then_some("p"));
            }
        }
    }

    #[test]
    fn catalog_that_is_no_list_costs_no_token_and_has_no_endpoint() {
        for catalog in [json!(null), json!({}), json!("x"), json!(1), json!([]), json!([[]])] {
            let document = parse(&json!({"expires_at": EXPIRES, "catalog": catalog}));
            let error = endpoint(&document, None).unwrap_err();
            assert!(error.contains("it has nothing"), "{catalog}: {error}");
        }
        assert!(
            TokenDocument::parse(format!(r#"{{"token":["{EXPIRES}",null,null,[]]}}"#).as_bytes()).is_err()
        );
    }

    #[test]
    fn endpoint_is_the_part_before_version_and_project() {
        for (url, expected) in [
            ("https://vbs.example", Ok("https://vbs.example/")),
            ("https://vbs.example/v2", Ok("https://vbs.example/")),
            ("https://vbs.example/v2/", Ok("https://vbs.example/")),
            ("https://vbs.example/v2/p", Ok("https://vbs.example/")),
            ("https://vbs.example/v2/p/", Ok("https://vbs.example/")),
            ("https://vbs.example/v2/another", Ok("https://vbs.example/")),
            ("https://vbs.example/p", Ok("https://vbs.example/")),
            ("https://proxy.example/v1/vbs/v2/p", Ok("https://proxy.example/v1/vbs")),
            ("https://proxy.example/volumes", Ok("https://proxy.example/volumes")),
            ("https://vbs.example/v2/$(tenant_id)s", Err("still has the placeholder tenant_id")),
            ("https://vbs.example/v2/%(project_id)s", Err("still has the placeholder project_id")),
            ("https://vbs.example/v3/$(project_id)s", Err("still has the placeholder project_id")),
            ("https://%(host)s/v2/p", Err("still has the placeholder host")),
            ("https://vbs.example/v2/{project_id}", Err("still has the placeholder project_id")),
            ("https://vbs.example/v3/p", Err("is of version v3, not v2")),
            ("https://vbs.example/v1/p/", Err("is of version v1, not v2")),
            ("https://vbs.example/v1/another", Err("is of version v1, not v2")),
            ("https://vbs.example/v2.0/p", Err("is of version v2.0, not v2")),
            ("https://vbs.example/v3", Err("is of version v3, not v2")),
            ("http://vbs.example/v2/p", Err("is http")),
            ("https://u:secret@vbs.example/v2/p", Err("must not contain a user name")),
            ("https://vbs.example/v2/p?x=1", Err("must not contain a query")),
            ("", Err("has no scheme")),
        ] {
            let catalog = json!([{"type": "vbsv2", "endpoints": [vbs(url)]}]);
            let document = parse(&json!({"expires_at": EXPIRES, "project": {"id": "p"}, "catalog": catalog}));
            let found = endpoint(&document, Some("eu-de"));
            match expected {
                Ok(base) => assert_eq!(found.as_deref(), Ok(base), "{url}"),
                Err(why) => {
                    let error = found.unwrap_err();
                    assert!(
                        error.starts_with(&format!("the catalog's URL of the upstream {why}")),
                        "{url}: {error}"
                    );
                    assert!(error.ends_with("; correct the catalog or set --upstream-url"), "{error}");
                    assert!(!error.contains("secret"), "{error}");
                }
            }
        }
    }

    #[test]
    fn lifetime_is_measured_by_the_clock_of_the_identity_service() {
        for (issued, expires, seconds) in [
            ("2026-11-23T08:00:00.000000Z", "2026-11-24T08:00:00.855000Z", Ok(86_399)),
            ("1999-11-23T08:00:00Z", "1999-11-23T08:00:10Z", Ok(9)),
            ("2026-11-23T08:00:00Z", "2026-11-23T08:00:00Z", Err("has a token that has already expired")),
            ("2026-11-23T08:00:00Z", "soon", Err("has an invalid expires_at")),
            ("now", "2026-11-23T08:00:00Z", Err("has an invalid issued_at")),
        ] {
            let lifetime = parse(&json!({"issued_at": issued, "expires_at": expires})).lifetime();
            assert_eq!(lifetime, seconds.map(Duration::from_secs), "{issued}, {expires}");
        }
        // What is used must be well-formed.
        for odd in [json!(null), json!(1), json!({}), json!([EXPIRES])] {
            let lifetime = |token: Value| parse(&token).lifetime();
            assert_eq!(lifetime(json!({"expires_at": odd})), Err("has an invalid expires_at"), "{odd}");
            if !odd.is_null() {
                let token = json!({"issued_at": odd, "expires_at": EXPIRES});
                assert_eq!(lifetime(token), Err("has an invalid issued_at"), "{odd}");
            }
        }
        assert_eq!(parse(&json!({})).lifetime(), Err("has an invalid expires_at"));
    }
}
