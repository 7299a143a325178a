//! One question to the identity service and what came of it: a token, with the upstream's endpoint out of its catalog, or
//! in clear words why there is none.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Deserialize;
use tokio::time::timeout;

use super::super::secret::blot_typed;
use super::account::{Account, Scope};
use crate::domain::{REQUEST_ID_HEADER, Timestamp, Token};
use crate::http::{BaseUrl, Body, Error as HttpError, HttpClient, Response, first_text};

/// The longest time of one question.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Where VBS stands in a catalog: by today's type, then by the one that other clients look for.
const TYPES: [&str; 2] = ["vbsv2", "vbs"];
/// Times are cut to whole seconds, so that a token may end up to one earlier than it says.
const ROUNDING: Duration = Duration::from_secs(1);
const REQUEST_ID_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-openstack-request-id"), REQUEST_ID_HEADER];
/// The longest text of the identity service that is logged, in bytes.
const MAX_TEXT: usize = 512;

/// Why the identity service gave no token.
#[derive(Clone, Debug)]
pub struct IdentityError {
    /// It refused the account; else it could not be asked, or gave no sensible answer.
    pub refused: bool,
    /// The HTTP status, where a whole reply came.
    pub http_status: Option<u16>,
    /// Its ID of the request.
    pub request_id: Option<String>,
    /// What happened and what to do, for the log.
    pub detail: String,
}

/// A token as it was issued.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) token: Token,
    /// How long it holds from the moment at which it was asked for.
    pub(super) lifetime: Duration,
    /// Where VBS is, if that was asked.
    pub(super) endpoint: Option<BaseUrl>,
    /// The project that it is for.
    pub(super) project_id: Option<String>,
}

/// What is wanted out of the catalog.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// The upstream's endpoint; without it, the catalog is not even sent.
    pub(super) endpoint: bool,
    /// That it may be `http`.
    pub(super) plaintext: bool,
}

/// Asks for a token.
pub(super) async fn issue(
    client: &HttpClient,
    account: &Account,
    wanted: Wanted,
) -> Result<Answer, IdentityError> {
    let reply = ask(client, account, Scope::Project, wanted.endpoint).await?;
    let said = |detail: String| IdentityError {
        refused: false,
        http_status: Some(reply.status),
        request_id: request_id(&reply, account),
        detail,
    };
    if reply.status != 201 {
        let refused = matches!(reply.status, 400 | 401 | 403 | 404);
        let advice = if refused { "check the account" } else { "it may be better soon" };
        let text = text(&reply, account);
        let detail =
            format!("the identity service answered with HTTP status {}{text}; {advice}", reply.status);
        return Err(IdentityError { refused, ..said(detail) });
    }
    let header = reply.headers.get("x-subject-token").and_then(|value| Token::issued(value).ok());
    let token =
        header.ok_or_else(|| said("the identity service's reply holds no usable X-Subject-Token".into()))?;
    let document = document(&reply)
        .map_err(|why| said(format!("the identity service's reply cannot be read: {why}")))?;
    let lifetime = document.lifetime().map_err(|why| said(format!("the identity service's reply {why}")))?;
    let endpoint =
        wanted.endpoint.then(|| document.endpoint(account, wanted.plaintext)).transpose().map_err(&said)?;
    Ok(Answer { token, lifetime, endpoint, project_id: document.project.map(|project| project.id) })
}

/// Why a password that was refused with its project was refused, as far as the identity service tells: it says the same of
/// a wrong password and of a project that is not there. This is one more try, so ask once.
pub(super) async fn diagnose(client: &HttpClient, account: &Account) -> Option<&'static str> {
    if !account.has_password() {
        return None;
    }
    let reply = ask(client, account, Scope::Nothing, false).await.ok()?;
    Some(match reply.status {
        201 => {
            "the password is right: there is no such project, or the user has no role in it (OS_PROJECT_…)"
        }
        401 => {
            "the user name, its domain or the password is wrong, or the user is locked or disabled (OS_USERNAME, OS_USER_DOMAIN_…, OS_PASSWORD)"
        }
        _ => return None,
    })
}

async fn ask(
    client: &HttpClient,
    account: &Account,
    scope: Scope,
    catalog: bool,
) -> Result<Response, IdentityError> {
    let unasked =
        |detail: String| IdentityError { refused: false, http_status: None, request_id: None, detail };
    let body = account
        .request(scope)
        .map_err(|error| unasked(format!("the question cannot be written: {error}")))?;
    let mut url = account.auth_url.join(&["auth/tokens"]);
    if !catalog {
        url.set_query(Some("nocatalog=true"));
    }
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    match timeout(TIMEOUT, client.post(url, headers, body)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(HttpError::Unreachable(why))) => {
            Err(unasked(format!("the identity service cannot be reached: {why} (OS_AUTH_URL, OS_CACERT)")))
        }
        Ok(Err(HttpError::ProxyAuthentication(why))) => {
            Err(unasked(format!("the proxy wants to know who asks: {why}")))
        }
        Ok(Err(HttpError::Lost { detail, .. })) => {
            Err(unasked(format!("the identity service broke off: {detail}")))
        }
        Err(_) => Err(unasked(format!("the identity service did not answer within {} s", TIMEOUT.as_secs()))),
    }
}

fn request_id(reply: &Response, account: &Account) -> Option<String> {
    let id = first_text(&reply.headers, &REQUEST_ID_HEADERS)?;
    Some(clean(id, account, 128))
}

fn body(reply: &Response) -> &[u8] {
    match &reply.body {
        Body::Complete(bytes) => bytes,
        Body::TooLarge => b"",
    }
}

/// The message of an error, in brackets.
fn text(reply: &Response, account: &Account) -> String {
    #[derive(Deserialize)]
    struct Outer {
        error: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        message: String,
    }
    let said = serde_json::from_slice::<Outer>(body(reply)).ok().map(|outer| outer.error.message);
    said.map(|message| format!(" ({})", clean(&message, account, MAX_TEXT))).unwrap_or_default()
}

/// What another has written, fit for the log.
fn clean(text: &str, account: &Account, limit: usize) -> String {
    let plain: String = text.chars().filter(|c| !c.is_control()).collect();
    // Cut at last: half a short secret would not be known again.
    blot_typed(&plain, account.secret().expose()).chars().take(limit).collect()
}

fn document(reply: &Response) -> Result<Document, String> {
    #[derive(Deserialize)]
    struct Outer {
        token: Document,
    }
    // The place, and not the text, which may hold anything.
    let place = |error: serde_json::Error| format!("line {}, column {}", error.line(), error.column());
    serde_json::from_slice::<Outer>(body(reply)).map(|outer| outer.token).map_err(place)
}

/// The part of a token's document that is read.
#[derive(Deserialize)]
struct Document {
    expires_at: String,
    issued_at: Option<String>,
    project: Option<Named>,
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
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

impl Document {
    /// By the identity service's own clock, which ours need not agree with.
    fn lifetime(&self) -> Result<Duration, String> {
        let seconds = |text: &str| Timestamp::parse(text).map(|time| time.seconds);
        let expires = seconds(&self.expires_at).ok_or("holds no expires_at that can be read")?;
        let issued = match &self.issued_at {
            Some(text) => seconds(text).ok_or("holds an issued_at that cannot be read")?,
            None => {
                let now =
                    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
            }
        };
        let lifetime =
            u64::try_from(expires - issued).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let lifetime = lifetime.ok_or("holds a token that has expired already")?;
        Ok(lifetime.saturating_sub(ROUNDING).max(lifetime / 2))
    }

    fn endpoint(&self, account: &Account, plaintext: bool) -> Result<BaseUrl, String> {
        let asked = account.region.as_deref();
        let found = TYPES.iter().find_map(|kind| self.find(kind, asked, account.interface));
        let Some(found) = found else {
            let (types, region) = (TYPES.join(" or "), asked.unwrap_or("any"));
            return Err(format!(
                "the catalog has no {} endpoint of type {types} for the region {region} (OS_REGION_NAME, OS_INTERFACE); it has {}; set --upstream-url to do without it",
                account.interface,
                self.inventory(account),
            ));
        };
        let url = found.map_err(|regions| {
            let regions = clean(&regions, account, MAX_TEXT);
            format!("the catalog has the upstream in several regions ({regions}): set OS_REGION_NAME")
        })?;
        BaseUrl::parse(self.without_project(url), plaintext)
            .map_err(|why| format!("the catalog's URL of the upstream {why}"))
    }

    /// The URL of this type in the region asked for, else in all regions (`*`). Where none is asked for, there must be but
    /// one; the regions are the error.
    fn find(&self, kind: &str, asked: Option<&str>, interface: &str) -> Option<Result<&str, String>> {
        let endpoints = || {
            let of_kind = self.catalog.iter().filter(move |service| service.kind == kind);
            of_kind
                .flat_map(|service| &service.endpoints)
                .filter(move |endpoint| endpoint.interface == interface)
        };
        if let Some(asked) = asked {
            let within = |region: &str| endpoints().find(|endpoint| endpoint.region() == region);
            return within(asked).or_else(|| within("*")).map(|endpoint| Ok(endpoint.url.as_str()));
        }
        let first = endpoints().next()?;
        let regions: BTreeSet<&str> = endpoints().map(Endpoint::region).collect();
        let is_only = endpoints().all(|endpoint| endpoint.url == first.url);
        Some(if is_only { Ok(&first.url) } else { Err(regions.into_iter().collect::<Vec<_>>().join(", ")) })
    }

    /// `https://host/v2/PROJECT` without what each call adds anew.
    fn without_project<'a>(&self, url: &'a str) -> &'a str {
        let url = url.trim_end_matches('/');
        let project = self.project.as_ref().map_or("", |project| project.id.as_str());
        let url =
            url.strip_suffix(project).filter(|rest| rest.ends_with('/')).unwrap_or(url).trim_end_matches('/');
        url.strip_suffix("/v2").unwrap_or(url)
    }

    fn inventory(&self, account: &Account) -> String {
        let lines: BTreeSet<String> = self
            .catalog
            .iter()
            .flat_map(|service| {
                let kind = &service.kind;
                let line = move |e: &Endpoint| format!("{kind} ({} {})", e.interface, e.region());
                service.endpoints.iter().map(line)
            })
            .collect();
        let all = lines.into_iter().collect::<Vec<_>>().join(", ");
        if all.is_empty() { "nothing".into() } else { clean(&all, account, 4 * MAX_TEXT) }
    }
}
