//! The value of `Retry-After`, as far as the status that goes to the caller.
//!
//! - Never a panic.
//! - Digits are so many seconds, more than fit are a long time; a date is the time until then, none in the past;
//!   everything else is none.
//! - The delay in RetryInfo is at least a second and at most an hour.
#![no_main]

use std::time::{Duration, SystemTime};

use backup_share_gateway::grpc::RpcError;
use backup_share_gateway::upstream;
use backup_share_gateway_fuzz::{REQUEST_ID, assert_status_rules, material};
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use tonic_types::StatusExt;

/// 2017-08-08T04:03:27Z.
const NOW: Duration = Duration::from_secs(1_502_165_007);

fuzz_target!(|value: &[u8]| {
    let now = SystemTime::UNIX_EPOCH + NOW;
    let read = upstream::retry_after(value, now);

    let text = std::str::from_utf8(value).unwrap_or("none").trim_matches([' ', '\t']);
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
        let told = read.expect("digits");
        match text.parse::<u64>() {
            Ok(seconds) => assert_eq!(told.as_secs(), seconds),
            Err(_) => assert!(told >= Duration::from_secs(3600)),
        }
    } else if let Some(left) = read {
        let date = httpdate::parse_http_date(text).expect("neither digits nor a date");
        assert_eq!(left, date.duration_since(now).unwrap_or_default());
    }

    let error = upstream::from_response(429, read, None, None, &material());
    let status = RpcError::Upstream(Box::new(error)).status(&HeaderValue::from_static(REQUEST_ID));
    assert_status_rules(&status);
    let told = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
    let expected = read.unwrap_or_default().clamp(Duration::from_secs(1), Duration::from_secs(3600));
    assert_eq!(told, Some(expected));
    let pushback = status.metadata().get("grpc-retry-pushback-ms").expect("a pushback");
    assert_eq!(pushback.to_str().ok(), Some(expected.as_millis().to_string().as_str()));
});
