//! What a caller and an operator may write, as far as the URL that is asked.
//!
//! The input is lines: the project, the share, the upstream's URL.
//!
//! - Never a panic.
//! - A project and a share that pass the check are of their alphabets only.
//! - The URL has the scheme, the host, the port and the path of the upstream's, then exactly the four segments of the
//!   call; no user, no query, no fragment.
#![no_main]

use backup_share_gateway::domain::{ProjectId, ShareId};
use backup_share_gateway::upstream::{BaseUrl, share_url};
use backup_share_gateway_fuzz::{PROJECT, SHARE};
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|input: &str| {
    let mut lines = input.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (project, share, base) = (line(), line(), line());

    let checked_project = ProjectId::parse(project.into());
    let checked_share = ShareId::parse(share.into());
    assert_eq!(checked_project.is_some(), is_project(project), "{project:?}");
    assert_eq!(checked_share.is_some(), is_uuid(share), "{share:?}");

    // What fails its check is replaced, so that the fuzzer learns about each line by itself.
    let project = checked_project.or_else(|| ProjectId::parse(PROJECT.into())).expect("a project");
    let share = checked_share.or_else(|| ShareId::parse(SHARE.into())).expect("a share");
    let Ok(checked_base) = BaseUrl::parse(base, true) else { return };
    let before = Url::parse(base).expect("a URL that the gateway takes is one");
    let url = share_url(&checked_base, &project, &share);
    assert_eq!(Url::parse(url.as_str()).as_ref(), Ok(&url), "it is written as it is read");
    assert!(url.as_str().parse::<http::Uri>().is_ok(), "it can be sent: {url}");

    assert_eq!(checked_base.is_plaintext(), url.scheme() == "http");
    assert_eq!(url.scheme(), before.scheme());
    assert_eq!(url.host(), before.host());
    assert_eq!(url.port_or_known_default(), before.port_or_known_default());
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    assert!(url.query().is_none() && url.fragment().is_none(), "{url}");
    let prefix = before.path().trim_end_matches('/');
    let tail = format!("/v2/{}/os-vendor-backup-sharing/{}", project.as_str(), share.as_str());
    assert_eq!(url.path(), format!("{prefix}{tail}"));
});

/// 1 to 64 of `A-Z a-z 0-9 _ -`.
fn is_project(text: &str) -> bool {
    let fits = |c: char| matches!(c, 'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '-');
    (1..=64).contains(&text.chars().count()) && text.chars().all(fits)
}

/// 8-4-4-4-12 hexadecimal digits.
fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(|group| group.chars().count()).collect();
    lengths == [8, 4, 4, 4, 12]
        && text.chars().all(|c| c == '-' || matches!(c, '0'..='9' | 'a'..='f' | 'A'..='F'))
}
