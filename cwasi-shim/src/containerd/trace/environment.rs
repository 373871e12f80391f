//! OpenTelemetry's variables, as far as its libraries do not read them themselves.

use std::time::Duration;

const DISABLED: &str = "OTEL_SDK_DISABLED";
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
/// The one for traces alone, which precedes the other.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// The only protocol that this program speaks.
const PROTOCOL: &str = "http/protobuf";
/// As the specification has it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The traces that an environment asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Longest that a collector may take for one batch.
    pub(super) timeout: Duration,
    /// Whether the environment names the service.
    pub(super) has_service_name: bool,
}

/// What the environment asks for; `None` where traces are off, as they are without an endpoint.
pub(super) fn wanted(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Wanted>, String> {
    // As the specification has it, an empty variable is none.
    let given = |name: &str| {
        variable(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    };
    let first = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, given(name)?)));
    let is_disabled = given(DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if is_disabled || first(ENDPOINTS).is_none() {
        return Ok(None);
    }
    match given(EXPORTER).as_deref() {
        None | Some("otlp") => {}
        Some("none") => return Ok(None),
        Some(other) => {
            return Err(format!(
                "{EXPORTER} is {other:?}; this program knows `otlp` and `none`"
            ));
        }
    }
    if let Some((name, protocol)) = first(PROTOCOLS).filter(|(_, protocol)| protocol != PROTOCOL) {
        return Err(format!("{name} is {protocol:?}; this program speaks {PROTOCOL}"));
    }
    let timeout = match first(TIMEOUTS) {
        None => DEFAULT_TIMEOUT,
        Some((name, text)) => {
            let millis = text
                .parse()
                .map_err(|_| format!("{name} is {text:?}, not a number of milliseconds"))?;
            Duration::from_millis(millis)
        }
    };
    let names_service = |text: String| {
        text.split(',')
            .any(|pair| pair.trim_start().starts_with("service.name="))
    };
    Ok(Some(Wanted {
        timeout,
        has_service_name: given(SERVICE_NAME).is_some() || given(RESOURCE).is_some_and(names_service),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");

    fn of(variables: &[(&str, &str)]) -> Result<Option<Wanted>, String> {
        wanted(|name| {
            let found = variables.iter().find(|(given, _)| *given == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn traces_are_off_unless_there_is_an_endpoint() {
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Ok(None));
        assert_eq!(of(&[("OTEL_SERVICE_NAME", "x")]), Ok(None));
        let expected = Wanted {
            timeout: Duration::from_secs(10),
            has_service_name: false,
        };
        assert_eq!(of(&[ENDPOINT]), Ok(Some(expected)));
        assert!(
            of(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a")])
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn traces_can_be_refused() {
        assert_eq!(of(&[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")]), Ok(None));
        assert!(of(&[ENDPOINT, ("OTEL_SDK_DISABLED", "1")]).unwrap().is_some());
        assert_eq!(of(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
        assert!(
            of(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "otlp")])
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let error = |name, value| of(&[ENDPOINT, (name, value)]).unwrap_err();
        assert_eq!(
            error("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            "OTEL_EXPORTER_OTLP_PROTOCOL is \"grpc\"; this program speaks http/protobuf"
        );
        assert!(error("OTEL_TRACES_EXPORTER", "zipkin").contains("zipkin"));
        assert!(error("OTEL_EXPORTER_OTLP_TIMEOUT", "10s").contains("milliseconds"));
        let precedes = [
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
        ];
        assert_eq!(
            of(&precedes).unwrap().unwrap().timeout,
            Duration::from_millis(250)
        );
    }

    #[test]
    fn a_service_is_named_in_either_way() {
        let named = |name, value| of(&[ENDPOINT, (name, value)]).unwrap().unwrap().has_service_name;
        assert!(named("OTEL_SERVICE_NAME", "functions"));
        assert!(named(
            "OTEL_RESOURCE_ATTRIBUTES",
            "zone=a, service.name=functions"
        ));
        assert!(!named("OTEL_RESOURCE_ATTRIBUTES", "my.service.name=functions"));
    }
}
