//! The client of the identity service: requests a token, and classifies the errors.
//!
//! Source: [Identity API v3](https://docs.openstack.org/api-ref/identity/v3/), `POST /v3/auth/tokens`. The token is in the
//! header `X-Subject-Token`. This module decides neither when a token is requested nor who uses it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Deserialize;
use tokio::time::timeout;

use super::account::{Account, Scope};
use super::token::{IdentityError, IssuedToken};
use super::token_document::{CatalogQuery, TokenDocument};
use crate::credentials::redact::redact_passphrase;
use crate::domain::{REQUEST_ID_HEADER, Token};
use crate::http::{Config as HttpConfig, Error as HttpError, HttpClient, Response, first_text};

/// The longest time of one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest response that is read: a catalog of every service in every region.
const MAX_RESPONSE_BYTES: usize = 4 << 20;
const REQUEST_ID_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-openstack-request-id"), REQUEST_ID_HEADER];
/// The longest request ID that is kept, in characters.
const MAX_REQUEST_ID: usize = 128;
/// The longest message of the identity service that is logged, in characters.
const MAX_MESSAGE: usize = 512;
/// The longest description of a catalog that is logged, in characters.
const MAX_CATALOG_MESSAGE: usize = 4096;

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

    /// Requests a token of the account's scope.
    pub(super) async fn fetch_token(&self) -> Result<IssuedToken, IdentityError> {
        let response = self.request(self.account.scope.as_ref(), self.endpoint_from_catalog).await?;
        let error = |is_refused, detail| IdentityError {
            is_refused,
            http_status: Some(response.status),
            request_id: first_text(&response.headers, &REQUEST_ID_HEADERS)
                .map(|id| self.sanitize(id, MAX_REQUEST_ID)),
            detail,
        };
        if response.status == 201 {
            return self.read_token(&response).map_err(|detail| error(false, detail));
        }
        let is_refused = matches!(response.status, 400 | 401 | 403 | 404);
        let advice = if is_refused { "check the account" } else { "this may be temporary" };
        let (status, message) = (response.status, self.message(&response));
        let detail = format!("the identity service answered with HTTP status {status}{message}; {advice}");
        Err(error(is_refused, detail))
    }

    /// Why a token of a project was refused to a password, if that can be found out: the identity service answers alike to a wrong
    /// password and to an unknown project. This is another attempt with the password, which may lock the account: do it once.
    pub(super) async fn diagnose_refusal(&self) -> Option<&'static str> {
        if !self.account.has_password() {
            return None;
        }
        match self.request(Some(&Scope::Unscoped), false).await.ok()?.status {
            201 => Some(
                "the password is right: there is no such project, or the user has no role in it (OS_PROJECT_…)",
            ),
            401 => Some(
                "the user name, its domain or the password is wrong, or the user is locked or disabled (OS_USERNAME, OS_USER_DOMAIN_…, OS_PASSWORD)",
            ),
            _ => None,
        }
    }

    async fn request(&self, scope: Option<&Scope>, with_catalog: bool) -> Result<Response, IdentityError> {
        let body = self.account.token_request(scope).map_err(|error| {
            IdentityError::unreachable(format!("cannot serialize the authentication request: {error}"))
        })?;
        let mut url = self.account.auth_url.join(&["auth/tokens"]);
        if !with_catalog {
            url.set_query(Some("nocatalog=true"));
        }
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(header::ACCEPT, json.clone()), (header::CONTENT_TYPE, json)]);
        match timeout(TIMEOUT, self.http.post(url, headers, body)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(transport_error(error)),
            Err(_) => {
                let detail = format!("the identity service did not answer within {} s", TIMEOUT.as_secs());
                Err(IdentityError::unreachable(detail))
            }
        }
    }

    fn read_token(&self, response: &Response) -> Result<IssuedToken, String> {
        let invalid = |why: String| format!("the identity service's response {why}");
        let header = response.headers.get("x-subject-token");
        let token = header.and_then(|value| Token::issued(value).ok());
        let token = token.ok_or_else(|| invalid("has no valid X-Subject-Token".into()))?;
        let document = TokenDocument::parse(body(response)).map_err(invalid)?;
        let lifetime = document.lifetime().map_err(invalid)?;
        let mut endpoint = None;
        if self.endpoint_from_catalog {
            let query = CatalogQuery {
                region: self.account.region.as_deref(),
                interface: self.account.interface,
                allow_plaintext: self.account.allow_plaintext,
            };
            let found = document.endpoint(query);
            endpoint = Some(found.map_err(|detail| self.sanitize(&detail, MAX_CATALOG_MESSAGE))?);
        }
        Ok(IssuedToken { token, lifetime, endpoint, project_id: document.project_id().map(str::to_owned) })
    }

    /// The message of an error response, in brackets.
    fn message(&self, response: &Response) -> String {
        #[derive(Deserialize)]
        struct ErrorResponse {
            error: ErrorDocument,
        }
        #[derive(Deserialize)]
        struct ErrorDocument {
            message: String,
        }
        match serde_json::from_slice::<ErrorResponse>(body(response)) {
            Ok(ErrorResponse { error }) => format!(" ({})", self.sanitize(&error.message, MAX_MESSAGE)),
            Err(_) => String::new(),
        }
    }

    /// What the identity service has written, fit for the log. It is truncated last: half of a short secret is not recognized.
    fn sanitize(&self, text: &str, max_length: usize) -> String {
        let printable: String = text.chars().filter(|c| !c.is_control()).collect();
        redact_passphrase(&printable, self.account.secret()).chars().take(max_length).collect()
    }
}

fn body(response: &Response) -> &[u8] {
    response.body.as_deref().unwrap_or_default()
}

fn transport_error(error: HttpError) -> IdentityError {
    IdentityError::unreachable(match error {
        HttpError::Unreachable(why) => {
            format!("the identity service cannot be reached: {why} (OS_AUTH_URL, OS_CACERT)")
        }
        HttpError::ProxyAuthentication(why) => {
            format!("the forward proxy requires authentication: {why} (--upstream-proxy)")
        }
        HttpError::Lost { detail, .. } => {
            format!("the connection to the identity service was lost: {detail}")
        }
    })
}
