//! The body of a 200: read as the share asked for, or refused.
//!
//! - Never a panic.
//! - An OK is JSON, in UTF-8, about the share asked for; its fields are those of the JSON, no more and no fewer.
//! - A refusal is one short line.
#![no_main]

use backup_share_gateway::domain::ShareId;
use backup_share_gateway::proto::GetBackupShareResponse;
use backup_share_gateway::upstream::read_share;
use backup_share_gateway_fuzz::{SHARE, is_what_the_json_holds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let asked = ShareId::parse(SHARE.into()).expect("an ID");
    match read_share(body, &asked, drop) {
        Ok(share) => {
            assert!(share.id.eq_ignore_ascii_case(SHARE), "another share");
            assert!(std::str::from_utf8(body).is_ok(), "an OK out of what is not UTF-8");
            let reply = GetBackupShareResponse::from(share).backup_share.expect("a share");
            match serde_json::from_slice(body) {
                Ok(json) => assert!(is_what_the_json_holds(&json, &reply), "{reply:?} out of {json}"),
                // A value in unknown keys that this reader does not take: too deep, too large, half a surrogate pair.
                Err(_) => {
                    serde_json::from_slice::<serde::de::IgnoredAny>(body)
                        .expect("an OK out of what is no JSON");
                }
            }
        }
        Err(malformed) => {
            let said = malformed.to_string();
            assert!(said.len() <= 512 && !said.chars().any(char::is_control), "{said:?}");
        }
    }
});
