//! What `check` prints of the command line and the environment: each setting that is not the default, with its source and
//! without secrets, and a warning for each variable that no flag reads.

use std::ffi::{OsStr, OsString};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use url::Url;

use super::validator::variable;
use super::value::boolean;
use crate::credentials::is_public;

/// The flags whose defaults depend on `--sandbox`: there, a value that is the default otherwise is a setting, too.
const DEFAULT_DEPENDS_ON_SANDBOX: [&str; 3] = ["listen", "admin-listen", "drain-delay"];

/// How similar two names must be (Jaro-Winkler, 0 to 1) for one to be a typing error of the other.
const SIMILAR: f64 = 0.85;

/// The flags whose values differ from their defaults: `--max-attempts 5 (variable GATEWAY_MAX_ATTEMPTS)`.
pub(super) fn of_flags(command: &Command, matches: &ArgMatches) -> Vec<String> {
    command.get_arguments().filter_map(|arg| of_flag(arg, matches)).collect()
}

fn of_flag(arg: &Arg, matches: &ArgMatches) -> Option<String> {
    let flag = arg.get_long()?;
    let source = matches.value_source(arg.get_id().as_str())?;
    let source = if source == ValueSource::CommandLine {
        "flag".to_owned()
    } else if source == ValueSource::EnvVariable {
        format!("variable {}", variable(flag))
    } else {
        return None;
    };
    let values = |id: &str| -> Option<Vec<String>> {
        Some(matches.get_raw(id)?.map(|value| value.to_string_lossy().into_owned()).collect())
    };
    let is_sandbox = values("sandbox")?.iter().any(|value| boolean(value) == Ok(true));
    let values = values(arg.get_id().as_str())?;
    let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let has_default = !(is_sandbox && DEFAULT_DEPENDS_ON_SANDBOX.contains(&flag));
    if has_default && values.iter().map(|value| normal(value)).eq(defaults) {
        return None;
    }
    let text = if flag == "upstream-proxy" { proxy_without_password(&values) } else { values.join(" ") };
    Some(format!("--{flag} {text} ({source})"))
}

/// The value of a switch in one form.
fn normal(value: &str) -> String {
    boolean(value).map_or_else(|_| value.to_owned(), |switch| switch.to_string())
}

fn proxy_without_password(values: &[String]) -> String {
    let url = values.first().and_then(|value| Url::parse(value).ok());
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let port = url.as_ref().and_then(Url::port).map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}", url.as_ref().map(Url::scheme).unwrap_or_default())
}

/// A variable that is set and has no flag.
pub(super) fn of_variable(name: &str, value: &str) -> String {
    if is_public(name) { format!("{name} {value} (variable)") } else { format!("{name} (variable)") }
}

/// The `OTEL_` variables. A value may be a secret.
pub(super) fn of_opentelemetry() -> Vec<String> {
    let set = names_with_prefix("OTEL_").map(|name| format!("{name} (variable)"));
    set.collect()
}

/// A warning for each `GATEWAY_…` variable that belongs to no flag of `serve`, with the flag that was probably meant.
pub(super) fn unknown_variables(serve: &Command) -> Vec<String> {
    let flags: Vec<&str> = serve.get_arguments().filter_map(Arg::get_long).collect();
    let unknown = names_with_prefix("GATEWAY_")
        .filter(|name| !is_set_by_kubernetes(name) && !flags.iter().any(|flag| variable(flag) == *name));
    unknown.map(|name| warning(&name, &flags)).collect()
}

fn warning(name: &str, flags: &[&str]) -> String {
    let without_prefix = |name: &str| name.trim_start_matches("GATEWAY_").to_owned();
    let similarity =
        |flag: &&str| strsim::jaro_winkler(&without_prefix(&variable(flag)), &without_prefix(name));
    let nearest = flags.iter().copied().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    match nearest.filter(|flag| similarity(flag) > SIMILAR) {
        Some(flag) => {
            format!("{name} belongs to no flag and is ignored; is --{flag} ({}) meant?", variable(flag))
        }
        None => format!("{name} belongs to no flag and is ignored"),
    }
}

/// Kubernetes sets these in every pod for a Service that is named `gateway`.
fn is_set_by_kubernetes(name: &str) -> bool {
    name.starts_with("GATEWAY_PORT") || name.starts_with("GATEWAY_SERVICE_")
}

/// The names of the variables that are set, sorted. An empty variable counts as not set.
fn names_with_prefix(prefix: &str) -> impl Iterator<Item = String> {
    let is_set = |(name, value): (OsString, OsString)| {
        let name = name.to_string_lossy().into_owned();
        (name.starts_with(prefix) && value != OsStr::new("")).then_some(name)
    };
    let mut names: Vec<String> = std::env::vars_os().filter_map(is_set).collect();
    names.sort();
    names.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_is_shown_without_user_password_path_and_query() {
        for (given, shown) in [
            ("http://proxy.example:3128", "http://proxy.example:3128"),
            ("https://user:hunter2@proxy.example", "https://proxy.example"),
            ("http://user:hun@ter2@[::1]:8080/hunter2?hunter2#hunter2", "http://[::1]:8080"),
        ] {
            assert_eq!(proxy_without_password(&[given.into()]), shown);
        }
    }

    #[test]
    fn unknown_variable_is_compared_with_every_flag() {
        let flags = ["listen", "admin-listen", "max-in-flight", "upstream-url", "tls-cert", "tls-client-ca"];
        for (name, flag) in [
            ("GATEWAY_MAX_INFLIGHT", Some("--max-in-flight (GATEWAY_MAX_IN_FLIGHT)")),
            ("GATEWAY_UPSTREAM", Some("--upstream-url (GATEWAY_UPSTREAM_URL)")),
            ("GATEWAY_TLS_CERTIFICATE", Some("--tls-cert (GATEWAY_TLS_CERT)")),
            ("GATEWAY_COLOR", None),
        ] {
            let warning = warning(name, &flags);
            assert_eq!(warning.contains("meant"), flag.is_some(), "{warning}");
            assert!(warning.starts_with(name) && warning.contains(flag.unwrap_or_default()), "{warning}");
        }
    }
}
