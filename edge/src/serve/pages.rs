//! Web pages, out of the executable.

use std::hash::{Hash as _, Hasher as _};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
    LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use rustc_hash::FxHasher;

/// No script or style but our own files. Media and connections to other hosts are what pages are for.
const POLICY: &str = "default-src 'self'; connect-src 'self' http: https: ws: wss:; media-src 'self' blob: http: https:; \
    img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What pages may use of the device; see the Permissions Policy of the W3C.
const PERMISSIONS: &str = "camera=(self), microphone=(self), display-capture=(self), fullscreen=(self), geolocation=()";

/// Paths and files.
const PAGES: &[(&str, &[u8])] = &[
    ("/", include_bytes!("../../web/index.html")),
    ("/style.css", include_bytes!("../../web/style.css")),
    ("/icon.svg", include_bytes!("../../web/icon.svg")),
    ("/icon-180.png", include_bytes!("../../web/icon-180.png")),
    ("/icon-192.png", include_bytes!("../../web/icon-192.png")),
    ("/icon-512.png", include_bytes!("../../web/icon-512.png")),
    ("/icon-maskable-512.png", include_bytes!("../../web/icon-maskable-512.png")),
    ("/manifest.webmanifest", include_bytes!("../../web/manifest.webmanifest")),
    ("/weir.js", include_bytes!("../../web/weir.js")),
    ("/lib/endpoint.js", include_bytes!("../../web/lib/endpoint.js")),
    ("/lib/session.js", include_bytes!("../../web/lib/session.js")),
    ("/lib/room.js", include_bytes!("../../web/lib/room.js")),
    ("/lib/ui.js", include_bytes!("../../web/lib/ui.js")),
    ("/lib/home.js", include_bytes!("../../web/lib/home.js")),
    ("/demos/", include_bytes!("../../web/demos/index.html")),
    ("/demos/one2one.html", include_bytes!("../../web/demos/one2one.html")),
    ("/demos/room.html", include_bytes!("../../web/demos/room.html")),
    ("/demos/call.js", include_bytes!("../../web/demos/call.js")),
    ("/demos/call.css", include_bytes!("../../web/demos/call.css")),
    ("/publish/", include_bytes!("../../web/publish/index.html")),
    ("/publish/publish.js", include_bytes!("../../web/publish/publish.js")),
    ("/players/", include_bytes!("../../web/players/index.html")),
    ("/console/", include_bytes!("../../web/console/index.html")),
    ("/console/console.js", include_bytes!("../../web/console/console.js")),
    ("/console/api.html", include_bytes!("../../web/console/api.html")),
    ("/console/api.js", include_bytes!("../../web/console/api.js")),
    ("/players/players.js", include_bytes!("../../web/players/players.js")),
    ("/players/flv.js", include_bytes!("../../web/players/flv.js")),
    ("/players/hls.js", include_bytes!("../../web/players/hls.js")),
    ("/players/webrtc.js", include_bytes!("../../web/players/webrtc.js")),
    ("/players/retry.js", include_bytes!("../../web/players/retry.js")),
];

include!(concat!(env!("OUT_DIR"), "/libraries.rs"));

fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        Some((_, "png")) => "image/png",
        Some((_, "txt")) => "text/plain; charset=utf-8",
        Some((_, "webmanifest")) => "application/manifest+json",
        _ => "text/html; charset=utf-8",
    }
}

/// The answer, if there is a page of this path.
pub(super) fn answer<T>(request: &Request<T>) -> Option<Response<Full<Bytes>>> {
    let path = request.uri().path();
    let Some((path, body)) = PAGES.iter().chain(LIBRARIES).find(|(known, _)| *known == path) else {
        // The folder of a page that stands in it.
        let folder = format!("{path}/");
        let known = PAGES.iter().any(|(known, _)| *known == folder);
        return known.then(|| moved(&folder, request.uri().query()));
    };
    let mut response = Response::new(Full::default());
    let fields = response.headers_mut();
    let tag = tag(body);
    describe(fields, kind(path), &tag);
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(response);
    }
    let held = request.headers().get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    if held.is_some_and(|tags| tags.split(',').any(|held| held.trim().trim_start_matches("W/") == tag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Some(response);
    }
    *response.body_mut() = Full::new(Bytes::from_static(body));
    Some(response)
}

fn tag(body: &[u8]) -> String {
    let mut hash = FxHasher::default();
    body.hash(&mut hash);
    format!("\"{:016x}\"", hash.finish())
}

fn describe(fields: &mut HeaderMap, kind: &'static str, tag: &str) {
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // Another version is another page, at once.
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    fields.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    fields.insert(HeaderName::from_static("permissions-policy"), HeaderValue::from_static(PERMISSIONS));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        fields.insert(ETAG, tag);
    }
}

fn moved(to: &str, query: Option<&str>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let to = query.map_or_else(|| to.to_owned(), |query| format!("{to}?{query}"));
    if let Ok(to) = HeaderValue::from_str(&to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: Method, path: &str, held: &str) -> Option<Response<Full<Bytes>>> {
        answer(&Request::builder().method(method).uri(path).header(IF_NONE_MATCH, held).body(()).unwrap())
    }

    #[test]
    fn pages_are_served_and_not_sent_twice() {
        let page = ask(Method::GET, "/publish/?stream=live/a", "").unwrap();
        assert_eq!(
            (page.status(), page.headers()[CONTENT_TYPE].as_bytes()),
            (StatusCode::OK, &b"text/html; charset=utf-8"[..])
        );
        let tag = page.headers()[ETAG].to_str().unwrap().to_owned();
        assert_eq!(ask(Method::GET, "/publish/", &format!("\"x\", {tag}")).unwrap().status(), StatusCode::NOT_MODIFIED);
        assert_eq!(ask(Method::GET, "/players/", &tag).unwrap().status(), StatusCode::OK, "another page");
        let moved = ask(Method::GET, "/players?a=b", "").unwrap();
        assert_eq!(moved.headers()[LOCATION], "/players/?a=b");
        assert_eq!(ask(Method::POST, "/", "").unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
        for nothing in ["/nothing", "/publish/index.html", "/../Cargo.toml", "/lib", "/lib/"] {
            assert!(ask(Method::GET, nothing, "").is_none(), "{nothing}");
        }
    }

    /// What the policy forbids is in no page, and what pages refer to is there.
    #[test]
    fn pages_live_by_their_policy() {
        for (path, body) in PAGES.iter().filter(|(path, _)| kind(path).starts_with("text/html")) {
            let text = std::str::from_utf8(body).unwrap();
            assert!(!text.contains("<style") && !text.contains(" style=") && !text.contains(" onclick="), "{path}");
            for part in text.split("src=\"").skip(1).chain(text.split("href=\"").skip(1)) {
                let target = part.split('"').next().unwrap();
                let pages = PAGES.iter().any(|(known, _)| *known == target);
                let is_there = pages || target.starts_with("/api/") || target == "/lib/licenses.txt";
                assert!(is_there, "{path} refers to {target}");
            }
            assert_eq!(text.matches("<script").count(), text.matches("<script type=\"module\" src=").count(), "{path}");
        }
        for (path, body) in PAGES.iter().filter(|(path, _)| path.ends_with(".js")) {
            let text = std::str::from_utf8(body).unwrap();
            assert!(!text.contains("innerHTML") && !text.contains("eval("), "{path}");
            for part in text.split(" from '").skip(1) {
                let target = part.split('\'').next().unwrap();
                assert!(
                    target.starts_with("/weir.js") && path.contains("weir")
                        || PAGES.iter().any(|(known, _)| *known == target),
                    "{path} imports {target}"
                );
            }
        }
    }
}
