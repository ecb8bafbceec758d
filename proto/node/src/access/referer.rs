//! Which page a player stands in.

use hyper::Uri;

/// Longest address of a page that is looked at.
const PAGE_MAX: usize = 2048;

/// Whether the page's host is one of `hosts`, or a name below one of them.
///
/// Whoever wants to can send any address here: this keeps other sites' pages from embedding a stream, and nobody else out.
pub(super) fn allows(hosts: &[String], page_url: &str) -> bool {
    if page_url.len() > PAGE_MAX {
        return false;
    }
    let Ok(uri) = page_url.parse::<Uri>() else { return false };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return false;
    }
    let Some(host) = uri.host() else { return false };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    hosts.iter().any(|allowed| is_or_is_below(&host, &allowed.to_ascii_lowercase()))
}

/// `live.example.com` is below `example.com`; `badexample.com` is not.
fn is_or_is_below(host: &str, allowed: &str) -> bool {
    match host.strip_suffix(allowed) {
        Some("") => true,
        Some(front) => front.ends_with('.'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_names_below_them() {
        let hosts = ["example.com".to_owned(), "TV.example.org".to_owned(), "[2001:db8::1]".to_owned()];
        for page in [
            "http://example.com/",
            "https://EXAMPLE.com:8443/a?b#c",
            "https://live.example.com./x",
            "https://user@example.com/",
            "http://tv.example.org",
            "http://[2001:db8::1]:80/",
        ] {
            assert!(allows(&hosts, page), "{page}");
        }
        for page in [
            "",
            "example.com",
            "example.com/",
            "http://badexample.com/",
            "http://example.com.evil.example/",
            "http://evil.example/?http://example.com/",
            "http://evil.example/example.com",
            "http://example.com@evil.example/",
            "http://evil.example\\@example.com/",
            "http://example.org/",
            "javascript://example.com/",
            "file:///example.com",
            "http://",
            "\u{0}http://example.com/",
        ] {
            assert!(!allows(&hosts, page), "{page}");
        }
        assert!(!allows(&hosts, &format!("http://example.com/{}", "a".repeat(PAGE_MAX))));
        assert!(!allows(&[], "http://example.com/"));
    }
}
