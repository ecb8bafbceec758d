use crate::rtmp::name::{Base, Target};
use crate::rtmp::{Limits, NameError};

fn resolve(app: &str, tc_url: &str, stream: &str) -> Result<Target, NameError> {
    Base::new(app, tc_url, &Limits::default())?.resolve(stream, &Limits::default())
}

/// vhost, app, stream, query.
fn parts(app: &str, tc_url: &str, stream: &str) -> [String; 4] {
    let Target { vhost, app, stream, query } = resolve(app, tc_url, stream).unwrap();
    [vhost, app, stream, query]
}

#[test]
fn every_url_form_finds_its_stream() {
    let url = "rtmp://Host.example:1935/live";
    for (app, tc_url, stream, expected) in [
        ("live", url, "s", ["host.example", "live", "s", ""]),
        ("live", url, "s?token=1", ["host.example", "live", "s", "token=1"]),
        ("live", url, "s?vhost=v.example", ["v.example", "live", "s", "vhost=v.example"]),
        ("live", url, "s?a=1&domain=v.example", ["v.example", "live", "s", "a=1&domain=v.example"]),
        ("live?vhost=v", "rtmp://h/live?vhost=v", "s", ["v", "live", "s", "vhost=v"]),
        ("live", "rtmp://h/live?vhost=v", "s", ["v", "live", "s", "vhost=v"]),
        ("live?vhost=v&k=1", "rtmp://h/live?vhost=v&k=1", "s?t=2", ["v", "live", "s", "vhost=v&k=1&t=2"]),
        ("live?vhost=v", "rtmp://h/live?vhost=v", "s?vhost=w", ["w", "live", "s", "vhost=v&vhost=w"]),
        ("live...vhost...v", "rtmp://h/live...vhost...v", "s", ["v", "live", "s", "vhost=v"]),
        ("live", url, "s...vhost...v", ["v", "live", "s", "vhost=v"]),
        ("live#vhost=v", "rtmp://h/live#vhost=v", "s", ["v", "live", "s", "vhost=v"]),
        ("live?vhost=v/s", "rtmp://h/live?vhost=v/s", "", ["v", "live", "s", "vhost=v"]),
        ("live?vhost=__defaultVhost__", url, "s", ["__defaultVhost__", "live", "s", "vhost=__defaultVhost__"]),
        ("live/_definst_", "rtmp://h/live/_definst_", "s", ["h", "live", "s", ""]),
        ("a/b", "rtmp://h/a/b", "s", ["h", "a/b", "s", ""]),
        ("a", "rtmp://h/a", "b/s", ["h", "a/b", "s", ""]),
        ("/live/", "rtmp://h//live/", "/s", ["h", "live", "s", ""]),
        ("", "rtmp://h/", "s", ["h", "__defaultApp__", "s", ""]),
        ("", "rtmp://h/live", "s", ["h", "live", "s", ""]),
        ("live/s", "rtmp://h/live/s", "", ["h", "live", "s", ""]),
        ("live/s?k=v", "rtmp://h/live/s?k=v", "", ["h", "live", "s", "k=v"]),
        ("s", "rtmp://h/s", "", ["h", "__defaultApp__", "s", ""]),
        ("live", "", "s", ["", "live", "s", ""]),
        ("live", "rtmp://user:pass@h:1935/live", "s", ["h", "live", "s", ""]),
        ("live", "rtmp://[2001:DB8::1]:1935/live", "s", ["2001:db8::1", "live", "s", ""]),
        ("live", url, "my%20camera+1", ["host.example", "live", "my camera+1", ""]),
        ("live", url, "%E6%B4%BE", ["host.example", "live", "派", ""]),
        ("caf%C3%A9", "rtmp://h/caf%C3%A9", "s%25", ["h", "café", "s%", ""]),
        ("live", url, "a..b", ["host.example", "live", "a..b", ""]),
        // A token may hold a slash.
        ("live?t=a/b", "rtmp://h/live?t=a/b", "s", ["h", "live", "s", "t=a/b"]),
    ] {
        assert_eq!(parts(app, tc_url, stream), expected, "{app} {tc_url} {stream}");
    }
}

#[test]
fn a_decoded_app_is_not_decoded_again() {
    assert_eq!(parts("50%2525", "rtmp://h/50%2525", "s")[1], "50%25");
}

#[test]
fn bad_names_are_refused_with_the_reason() {
    let url = "rtmp://h/live";
    for (app, stream, expected) in [
        ("live", "..", NameError::Dots),
        ("live", "../../etc/passwd", NameError::Dots),
        ("live", "a/./b", NameError::Dots),
        ("live", "%2e%2E", NameError::Dots),
        ("..", "s", NameError::Dots),
        ("live", "a\nb", NameError::Control),
        ("live", "a%00b", NameError::Control),
        ("li\u{7f}ve", "s", NameError::Control),
        ("live", "a%2fb", NameError::Percent),
        ("live", "100%", NameError::Percent),
        ("live", "%zz", NameError::Percent),
        ("live", "%+1", NameError::Percent),
        ("live", "%ff%fe", NameError::NotUtf8),
        ("live", "a\u{fffd}", NameError::NotUtf8),
        ("", "", NameError::Empty),
        ("live", "s?vhost=a b", NameError::Vhost),
        ("live", "s?vhost=..", NameError::Vhost),
        ("live", "s?vhost=a%2fb", NameError::Vhost),
    ] {
        let url = if app.is_empty() { "rtmp://h" } else { url };
        assert_eq!(resolve(app, url, stream).err(), Some(expected), "{app} {stream}");
    }
}

#[test]
fn lengths_are_bounded() {
    let url = "rtmp://h/live";
    let long = |what, limit| Some(NameError::TooLong { what, limit });
    let name = "n".repeat(Limits::NAME);
    assert_eq!(parts("live", url, &name)[2], name);
    let longer = format!("{name}n");
    assert_eq!(resolve("live", url, &longer).err(), long("stream name", Limits::NAME));
    assert_eq!(resolve(&longer, url, "s").err(), long("application name", Limits::NAME));
    assert_eq!(resolve("live", url, &format!("{name}/s")).err(), long("application name", Limits::NAME));
    assert_eq!(resolve("live", url, &format!("s?vhost={longer}")).err(), long("virtual host", Limits::NAME));
    assert_eq!(resolve("live", &format!("rtmp://{longer}/"), "s").err(), long("virtual host", Limits::NAME));
    let query = "q".repeat(Limits::QUERY);
    assert_eq!(parts("live", url, &format!("s?{query}"))[3], query);
    assert_eq!(resolve("live", url, &format!("s?{query}q")).err(), long("query", Limits::QUERY));
    assert_eq!(resolve(&format!("live?{query}"), url, "s?x").err(), long("query", Limits::QUERY));
}
