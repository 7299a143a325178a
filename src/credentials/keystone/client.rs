//! The client of the identity service: requests a token, and classifies the errors.
//!
//! Source: [Identity API v3](https://docs.openstack.org/api-ref/identity/v3/), `POST /v3/auth/tokens`. The token is in the
//! header `X-Subject-Token`. This module decides neither when a token is requested nor who uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::{Instant, timeout};

use super::account::{Account, Scope, Target};
use super::token_document::TokenDocument;
use crate::credentials::redact::{redact, redact_passphrase};
use crate::domain::{ProjectId, REQUEST_ID_HEADER, Token};
use crate::error_response::{ErrorBody, retry_after_header};
use crate::http::{BaseUrl, Config as HttpConfig, Error as HttpError, HttpClient, Response, first_text};

/// The longest time of one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest response that is read: a catalog of every service in every region.
const MAX_RESPONSE_BYTES: usize = 4 << 20;
/// Keystone's header first, then those of the API gateway and of the clouds' IAM.
const REQUEST_ID_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-openstack-request-id"),
    REQUEST_ID_HEADER,
    HeaderName::from_static("x-iam-trace-id"),
];
/// The longest request ID that is kept, in characters.
const MAX_REQUEST_ID: usize = 128;
/// The longest message of the identity service that is logged, in characters.
const MAX_MESSAGE: usize = 512;
/// The longest description of a catalog that is logged, in characters.
const MAX_CATALOG_MESSAGE: usize = 4096;

/// A token of the gateway's own account.
#[derive(Debug)]
pub struct IssuedToken {
    pub(crate) token: Token,
    pub(super) requested_at: Instant,
    /// How long it is valid, from the moment of the request.
    pub(crate) lifetime: Duration,
    /// The upstream's URL in the catalog, if the gateway takes it from there.
    pub(crate) endpoint: Option<BaseUrl>,
    /// The project that it is for.
    pub(crate) project_id: ProjectId,
}

impl IssuedToken {
    /// When it ends, by the local clock.
    pub(super) fn expires_at(&self) -> Instant {
        self.requested_at + self.lifetime
    }
}

/// Why there is no token.
#[derive(Clone, Debug)]
pub struct IdentityError {
    /// The identity service rejected the account. Otherwise it could not be reached, or its response was not usable.
    pub is_refused: bool,
    /// It issued a token nevertheless, for no project or one that cannot be used: the password is right.
    pub is_password_right: bool,
    /// The HTTP status, if there was a complete response.
    pub http_status: Option<u16>,
    /// The identity service's ID of the request.
    pub request_id: Option<String>,
    /// A valid `Retry-After`.
    pub retry_after: Option<Duration>,
    /// What happened and what to do, for the log.
    pub detail: String,
}

impl IdentityError {
    /// There was no response.
    pub(super) fn unreachable(detail: String) -> Self {
        Self {
            is_refused: false,
            is_password_right: false,
            http_status: None,
            request_id: None,
            retry_after: None,
            detail,
        }
    }
}

/// An account, and the connections to its identity service.
pub(super) struct IdentityClient {
    pub(super) account: Account,
    http: HttpClient,
    /// Whether the upstream's endpoint is taken from the catalog. Otherwise the catalog is not even sent.
    endpoint_from_catalog: bool,
}

impl IdentityClient {
    /// Makes the client. It connects to nothing yet.
    pub(super) fn new(
        account: Account,
        http: &HttpConfig,
        endpoint_from_catalog: bool,
    ) -> Result<Self, String> {
        let roots = account.roots.clone();
        let config = HttpConfig { roots, max_response_bytes: MAX_RESPONSE_BYTES, ..http.clone() };
        Ok(Self { account, http: HttpClient::new(config)?, endpoint_from_catalog })
    }

    /// Requests a token for a project, or for the account's own. If it is refused and `may_diagnose` is set, the error says why,
    /// if that can be found out; `may_diagnose` is then cleared.
    pub(super) async fn fetch_token(
        &self,
        project: Option<&ProjectId>,
        may_diagnose: &AtomicBool,
    ) -> Result<Arc<IssuedToken>, IdentityError> {
        let requested_at = Instant::now();
        let target = project.map_or(Target::OwnProject, Target::Project);
        let response = self.request(target).await?;
        let status = response.status;
        let mut error = self.response_error(&response);
        if status == 201 {
            match self.read_token(&response, requested_at, project) {
                Ok(token) => return Ok(Arc::new(token)),
                Err(detail) => error.detail = detail,
            }
        }
        if error.is_refused && self.account.has_password() && may_diagnose.swap(false, Ordering::Relaxed) {
            self.diagnose_refusal(&mut error).await;
        }
        Err(error)
    }

    /// The error of a response without a token. Code and message of the identity service are for the log: no caller gets them.
    fn response_error(&self, response: &Response) -> IdentityError {
        let status = response.status;
        let is_refused = matches!(status, 400 | 401 | 403 | 404);
        // The document of a token is no error body, and may be long.
        let body = response.body.as_deref().filter(|_| status != 201).unwrap_or_default();
        let error = ErrorBody::read(body);
        let code_and_message: Vec<String> = error.code.into_iter().chain(error.message).collect();
        let text = self.sanitize(&code_and_message.join(": "), MAX_MESSAGE);
        let text = if text.is_empty() { text } else { format!(" ({text})") };
        let advice = if is_refused { "check the account" } else { "this may be temporary" };
        let header = first_text(&response.headers, &REQUEST_ID_HEADERS).map(str::to_owned);
        let is_visible = |id: &String| !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic());
        let request_id = header.or(error.request_id).filter(is_visible);
        IdentityError {
            is_refused,
            is_password_right: status == 201,
            http_status: Some(status),
            request_id: request_id.map(|id| self.sanitize(&id, MAX_REQUEST_ID)),
            retry_after: retry_after_header(&response.headers).or(error.retry_after),
            detail: format!("the identity service answered with HTTP status {status}{text}; {advice}"),
        }
    }

    /// The identity service answers alike to a wrong password and to an unknown project. A token for no project tells them
    /// apart. This is another attempt with the password, which may lock the account: do it once.
    async fn diagnose_refusal(&self, error: &mut IdentityError) {
        let status = self.request(Target::NoProject).await.ok().map(|response| response.status);
        error.is_password_right = status == Some(201);
        let diagnosis = match (status, self.account.scope()) {
            (Some(201), Scope::EachProject) => {
                "the password is right: there is no such project, or the user has no role in it"
            }
            (Some(201), _) => {
                "the password is right: there is no such project, or the user has no role in it (OS_PROJECT_…)"
            }
            (Some(401), _) => {
                "the user name, its domain or the password is wrong, or the user is locked or disabled (OS_USERNAME, OS_USER_DOMAIN_…, OS_PASSWORD)"
            }
            (_, _) => return,
        };
        error.detail = format!("{}: {diagnosis}", error.detail);
    }

    async fn request(&self, target: Target<'_>) -> Result<Response, IdentityError> {
        let mut url = self.account.auth_url.join(&["auth/tokens"]);
        if matches!(target, Target::NoProject) || !self.endpoint_from_catalog {
            url.set_query(Some("nocatalog=true"));
        }
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(header::ACCEPT, json.clone()), (header::CONTENT_TYPE, json)]);
        let response = self.http.post(url, headers, self.account.token_request(target));
        let detail = match timeout(TIMEOUT, response).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(HttpError::Unreachable(why))) => {
                format!("the identity service cannot be reached: {why} (OS_AUTH_URL, OS_CACERT)")
            }
            Ok(Err(HttpError::ProxyAuthentication(why))) => {
                format!("the forward proxy requires authentication: {why} (--upstream-proxy)")
            }
            Ok(Err(HttpError::Lost { detail, .. })) => {
                format!("the connection to the identity service was lost: {detail}")
            }
            Err(_) => format!("the identity service did not answer within {} s", TIMEOUT.as_secs()),
        };
        Err(IdentityError::unreachable(detail))
    }

    fn read_token(
        &self,
        response: &Response,
        requested_at: Instant,
        project: Option<&ProjectId>,
    ) -> Result<IssuedToken, String> {
        let invalid = |why: &str| format!("the identity service's response {why}");
        let header = response.headers.get("x-subject-token");
        let token = header.and_then(|value| Token::issued(value).ok());
        let token = token.ok_or_else(|| invalid("has no valid X-Subject-Token"))?;
        let body = response.body.as_ref().ok_or_else(|| invalid("is longer than 4 MiB"))?;
        let document = TokenDocument::parse(body).map_err(|why| invalid(&why))?;
        let lifetime = document.lifetime().map_err(invalid)?;
        let mut endpoint = None;
        if self.endpoint_from_catalog {
            let found = document.endpoint(&self.account.catalog);
            let fit_for_log =
                |detail: String| redact(&self.sanitize(&detail, MAX_CATALOG_MESSAGE), [token.expose()]);
            endpoint = Some(found.map_err(fit_for_log)?);
        }
        let project_id = match (project, self.account.scope()) {
            (Some(requested), _) => Some(requested.clone()),
            (None, Scope::Id(configured)) => Some(configured.clone()),
            (None, _) => document.project_id().and_then(|id| ProjectId::parse(id.to_owned())),
        };
        let project_id = project_id.ok_or_else(|| invalid("has a token without the ID of its project"))?;
        Ok(IssuedToken { token, requested_at, lifetime, endpoint, project_id })
    }

    /// What the identity service has written, fit for the log. It is truncated last: half of a short secret is not recognized.
    fn sanitize(&self, text: &str, max_length: usize) -> String {
        let printable: String = text.chars().filter(|c| !c.is_control()).collect();
        redact_passphrase(&printable, self.account.secret()).chars().take(max_length).collect()
    }
}
