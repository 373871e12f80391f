//! Who may see the page.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::StatusPage;

/// Lets requests pass from those that the page is for, and by names that nobody else can give this machine.
pub(super) async fn admit(
    State(audience): State<StatusPage>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if !is_for(audience, peer.ip()) {
        let text = "the status page is for this machine alone; --status-page=any opens it to others\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    if !is_own_host(request.headers()) {
        let text = "the status page answers to an IP address, or to localhost, and to no other name\n";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    next.run(request).await
}

/// Whether the page is for who connects from an address.
fn is_for(audience: StatusPage, peer: IpAddr) -> bool {
    match audience {
        StatusPage::Off => false,
        StatusPage::Loopback => peer.to_canonical().is_loopback(),
        StatusPage::Any => true,
    }
}

/// Whether the request was made for an address or for `localhost`. A page of somebody else can have its own name resolve to this
/// machine (DNS rebinding), and would be of the same origin under it.
fn is_own_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let Ok(authority) = Authority::try_from(host.as_bytes()) else {
        return false;
    };
    let host = authority.host();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(host: &str) -> bool {
        is_own_host(&HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]))
    }

    #[test]
    fn others_are_let_in_only_when_told_so() {
        let is_for = |audience, peer: &str| is_for(audience, peer.parse().unwrap());
        for (peer, own) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.7", false),
            ("::ffff:10.0.0.7", false),
            ("fd00::7", false),
        ] {
            assert_eq!(is_for(StatusPage::Loopback, peer), own, "{peer}");
            assert!(is_for(StatusPage::Any, peer), "{peer}");
            assert!(!is_for(StatusPage::Off, peer), "{peer}");
        }
    }

    #[test]
    fn names_that_others_can_give_are_refused() {
        for own in [
            "localhost",
            "LocalHost:9464",
            "127.0.0.1:9464",
            "10.0.0.7",
            "[::1]:9464",
            "[fd00::1]",
        ] {
            assert!(admits(own), "{own}");
        }
        for other in [
            "",
            "evil.example",
            "evil.example:9464",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:9464:80",
            "localhost@evil.example",
            "a b",
        ] {
            assert!(!admits(other), "{other}");
        }
        assert!(!is_own_host(&HeaderMap::new()));
        let mut two = HeaderMap::new();
        two.append(header::HOST, "localhost".parse().unwrap());
        two.append(header::HOST, "localhost".parse().unwrap());
        assert!(!is_own_host(&two));
    }
}
