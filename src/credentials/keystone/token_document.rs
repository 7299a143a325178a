//! The JSON document of a token: its lifetime and its service catalog.
//!
//! Source: [Identity API v3](https://docs.openstack.org/api-ref/identity/v3/), response of `POST /v3/auth/tokens`. Only what is
//! read must be well-formed: services and endpoints that are not are skipped. This module is pure.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::domain::Timestamp;
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

/// The parts of the document that are read.
#[derive(Debug, Deserialize)]
pub(super) struct TokenDocument {
    expires_at: String,
    issued_at: Option<String>,
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
    region: Option<String>,
    region_id: Option<String>,
    url: String,
}

impl Endpoint {
    fn region(&self) -> &str {
        self.region.as_deref().or(self.region_id.as_deref()).unwrap_or("*")
    }
}

/// The entries of a list, without those that are not well-formed.
fn well_formed<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let entries = Option::<Vec<Value>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(entries.into_iter().filter_map(|entry| T::deserialize(entry).ok()).collect())
}

impl TokenDocument {
    /// Parses the body of a response. The error gives the position and no text, which may hold anything.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Response {
            token: TokenDocument,
        }
        let response: Result<Response, _> = serde_json::from_slice(body);
        response
            .map(|response| response.token)
            .map_err(|error| format!("cannot be parsed at line {}, column {}", error.line(), error.column()))
    }

    /// How long the token is valid, by the clock of the identity service, which ours need not agree with.
    pub(super) fn lifetime(&self) -> Result<Duration, &'static str> {
        let expires = Timestamp::parse(&self.expires_at).ok_or("has an invalid expires_at")?.seconds;
        let issued = match &self.issued_at {
            Some(text) => Timestamp::parse(text).ok_or("has an invalid issued_at")?.seconds,
            None => jiff::Timestamp::now().as_second(),
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
            let endpoints = endpoints.filter(|endpoint| endpoint.interface == query.interface).collect();
            if let Some(endpoint) = choose(endpoints, query.region.as_deref())? {
                return BaseUrl::parse(self.without_project(&endpoint.url), query.allow_plaintext)
                    .map_err(|why| format!("the catalog's URL of the upstream {why}"));
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

    /// `https://host/v2/PROJECT` without version and project.
    fn without_project<'a>(&self, url: &'a str) -> &'a str {
        let url = url.trim_end_matches('/');
        let without_id = url.strip_suffix(self.project_id().unwrap_or_default());
        let parent = without_id.filter(|parent| parent.ends_with('/')).unwrap_or(url).trim_end_matches('/');
        parent.strip_suffix("/v2").unwrap_or(parent)
    }

    fn available_endpoints(&self) -> String {
        let endpoints = self.catalog.iter().flat_map(|Service { service_type, endpoints }| {
            let describe = move |endpoint: &Endpoint| {
                format!("{service_type} ({} {})", endpoint.interface, endpoint.region())
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
        let within = |region: &str| endpoints.iter().find(|endpoint| endpoint.region() == region);
        return Ok(within(region).or_else(|| within("*")).copied());
    }
    let urls: BTreeSet<&str> = endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect();
    if urls.len() <= 1 {
        return Ok(endpoints.first().copied());
    }
    let regions = sorted(endpoints.iter().map(|endpoint| endpoint.region().to_owned()));
    Err(format!("the catalog has the upstream in several regions ({regions}): set OS_REGION_NAME"))
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

    #[test]
    fn entries_that_are_not_read_need_not_be_well_formed() {
        let query =
            CatalogQuery { region: Some("eu-de".into()), interface: "public", allow_plaintext: false };
        let vbs = json!({"interface": "public", "region": "eu-de", "url": "https://vbs.example/v2/p"});
        let expires = "2026-11-24T08:00:00Z";
        let odd_endpoints = json!([null, 1, {}, {"url": null, "interface": "public", "region": "eu-de"},
            {"url": "https://x", "region": "eu-de"}, {"url": "https://x", "interface": "public", "region": 1}, vbs]);
        for catalog in [
            json!([null, 1, {"type": null, "endpoints": []}, {"endpoints": []}, {"type": "evs", "endpoints": null},
                {"type": "evs"}, {"type": "vbsv2", "endpoints": null}, {"type": "vbs", "endpoints": [vbs]}]),
            json!([{"type": "vbsv2", "endpoints": odd_endpoints}]),
        ] {
            for project in [json!({"id": "p"}), json!({}), json!(null), json!({"id": 1})] {
                let document = parse(&json!({"expires_at": expires, "project": project, "catalog": catalog}));
                let url = document.endpoint(&query).unwrap().to_string();
                let has_id = document.project_id().is_some();
                let expected = if has_id { "https://vbs.example/" } else { "https://vbs.example/v2/p" };
                assert_eq!((url.as_str(), has_id), (expected, project == json!({"id": "p"})), "{catalog}");
            }
        }
        let without = parse(&json!({"expires_at": expires, "catalog": null})).endpoint(&query).unwrap_err();
        assert!(without.contains("it has nothing"), "{without}");
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
    }
}
