//! Rules as a whole, and tokens of all kinds, forged and not.

use std::collections::BTreeMap;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::Secret;
use crate::config::{Jwt, JwtAlgorithm, JwtKey};

const NOW: u64 = 1_800_000_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn river() -> StreamName {
    StreamName { vhost: "v.example".into(), app: "live".into(), stream: "river".into() }
}

fn ask<'a>(name: &'a StreamName, ip: &str, query: &'a str) -> Asking<'a> {
    Asking { action: Action::Play, name, ip: ip.parse().unwrap(), query, page_url: "", bearer: "" }
}

fn networks(texts: &[&str]) -> Vec<Network> {
    texts.iter().map(|text| Network::parse(text).unwrap()).collect()
}

fn with_token(jwt: Jwt) -> Access {
    Access { play: Rules { token: true, ..Rules::default() }, jwt, ..Access::default() }
}

#[test]
fn deny_wins_and_allow_shuts_out_the_others() {
    let cases: [(&[&str], &[&str], &str, bool); 9] = [
        (&[], &[], "192.0.2.1", true),
        (&[], &["192.0.2.0/24"], "192.0.2.1", false),
        (&[], &["192.0.2.0/24"], "192.0.3.1", true),
        (&["192.0.2.0/24"], &[], "192.0.2.1", true),
        (&["192.0.2.0/24"], &[], "192.0.3.1", false),
        (&["all"], &["192.0.2.1"], "192.0.2.1", false),
        (&["192.0.2.1"], &["all"], "192.0.2.1", false),
        (&["192.0.2.0/24"], &[], "::ffff:192.0.2.1", true),
        (&[], &["::ffff:192.0.2.1"], "192.0.2.1", false),
    ];
    for (allow, deny, from, may) in cases {
        let play = Rules { allow: networks(allow), deny: networks(deny), ..Rules::default() };
        let access = Access { play, ..Access::default() };
        let name = river();
        let checked = check(&access, &Keys::default(), &ask(&name, from, ""), NOW);
        assert_eq!(checked, if may { Ok(()) } else { Err(Refusal::Address) }, "{allow:?} {deny:?} {from}");
        let publishes = Asking { action: Action::Publish, ..ask(&name, from, "") };
        assert_eq!(check(&access, &Keys::default(), &publishes, NOW), Ok(()), "rules are of their action");
    }
}

#[test]
fn pages_are_asked_for_only_where_they_are_listed() {
    let play = Rules { referer: vec!["example.com".to_owned()], ..Rules::default() };
    let access = Access { play, ..Access::default() };
    let name = river();
    for (page_url, may) in [("https://a.example.com/", true), ("https://other.example/", false), ("", false)] {
        let asking = Asking { page_url, ..ask(&name, "::1", "") };
        assert_eq!(check(&access, &Keys::default(), &asking, NOW).is_ok(), may, "{page_url}");
    }
}

#[test]
fn a_signed_address_of_a_key_that_was_taken_away_is_closed() {
    let name = river();
    let grant = Grant { action: Action::Play, name: &name, expires: NOW + 1, ip: None };
    let (old, new) = (Secret::from("the old secret 0"), Secret::from("the new secret 1"));
    let mut access = with_token(Jwt::default());
    access.sign_keys = BTreeMap::from([("old".to_owned(), old.clone()), ("new".to_owned(), new.clone())]);
    let by = |access: &Access, query: &str| check(access, &Keys::default(), &ask(&name, "::1", query), NOW);
    let (by_old, by_new) = (grant.sign("old", &old), grant.sign("new", &new));
    assert_eq!((by(&access, &by_old), by(&access, &by_new)), (Ok(()), Ok(())));
    access.sign_keys.remove("old");
    assert_eq!((by(&access, &by_old), by(&access, &by_new)), (Err(Refusal::Token), Ok(())));
    assert_eq!(by(&access, ""), Err(Refusal::Token));
}

fn claims() -> Value {
    json!({"exp": NOW + 60, "action": "play", "vhost": "v.example", "app": "live", "stream": "river"})
}

fn shared(kid: &str, alg: JwtAlgorithm) -> JwtKey {
    JwtKey { kid: kid.to_owned(), alg, secret: SECRET.into(), file: String::new() }
}

fn token(alg: Algorithm, kid: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(alg) };
    encode(&header, claims, key).unwrap()
}

fn hs(claims: &Value) -> String {
    token(Algorithm::HS256, Some("a"), &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

#[test]
fn claims_are_all_needed_and_say_what_may_be_done() {
    let jwt = Jwt { keys: vec![shared("a", JwtAlgorithm::Hs256)], ..Jwt::default() };
    let (access, keys, name) = (with_token(jwt.clone()), Keys::load(&jwt.keys).unwrap(), river());
    let may = |claims: &Value| {
        let query = format!("x=1&token={}", hs(claims));
        check(&access, &keys, &ask(&name, "::1", &query), NOW)
    };
    assert_eq!(may(&claims()), Ok(()));
    for (claim, value, good) in [
        ("exp", json!(NOW - 4), true),
        ("exp", json!(NOW as f64 + 0.5), true),
        ("exp", json!(NOW - 5), false),
        ("exp", json!("2100"), false),
        ("exp", Value::Null, false),
        ("nbf", json!(NOW + 5), true),
        ("nbf", json!(NOW + 6), false),
        ("nbf", json!("x"), false),
        ("action", json!("*"), true),
        ("action", json!("publish"), false),
        ("vhost", json!("*"), true),
        ("vhost", json!("V.example"), false),
        ("app", json!("*"), true),
        ("app", json!("live/"), false),
        ("stream", json!("*"), true),
        ("stream", json!("rive*"), false),
        ("stream", json!(["river"]), false),
        ("aud", json!("somebody else"), false),
        ("iss", json!("anybody"), true),
    ] {
        let mut changed = claims();
        changed[claim] = value;
        assert_eq!(may(&changed).is_ok(), good, "{changed}");
    }
    for claim in ["exp", "action", "vhost", "app", "stream"] {
        let mut changed = claims();
        changed.as_object_mut().unwrap().remove(claim);
        assert_eq!(may(&changed), Err(Refusal::Token), "without {claim}");
    }
}

#[test]
fn a_token_comes_in_the_query_or_in_the_header() {
    let jwt = Jwt { keys: vec![shared("a", JwtAlgorithm::Hs256)], ..Jwt::default() };
    let (access, keys, name) = (with_token(jwt.clone()), Keys::load(&jwt.keys).unwrap(), river());
    let good = hs(&claims());
    let (query, other) = (format!("jwt={good}"), format!("token=x&jwt={good}"));
    assert_eq!(check(&access, &keys, &ask(&name, "::1", &query), NOW), Ok(()));
    assert_eq!(check(&access, &keys, &ask(&name, "::1", &other), NOW), Err(Refusal::Token));
    let in_header = Asking { bearer: &good, ..ask(&name, "::1", "") };
    assert_eq!(check(&access, &keys, &in_header, NOW), Ok(()));
    assert_eq!(check(&access, &keys, &ask(&name, "::1", "sig=x"), NOW), Err(Refusal::Token));
}

#[test]
fn issuer_and_audience_where_they_are_wanted() {
    let keys = vec![shared("a", JwtAlgorithm::Hs256)];
    let jwt = Jwt { keys, issuer: "them".to_owned(), audience: "weir".to_owned(), ..Jwt::default() };
    let (access, keys, name) = (with_token(jwt.clone()), Keys::load(&jwt.keys).unwrap(), river());
    for (iss, aud, good) in [
        (json!("them"), json!("weir"), true),
        (json!("them"), json!(["x", "weir"]), true),
        (json!("us"), json!("weir"), false),
        (json!("them"), json!("x"), false),
        (Value::Null, json!("weir"), false),
        (json!("them"), Value::Null, false),
    ] {
        let mut claims = claims();
        let fields = claims.as_object_mut().unwrap();
        fields.extend([("iss", iss), ("aud", aud)].map(|(name, value)| (name.to_owned(), value)));
        fields.retain(|_, value| !value.is_null());
        let query = format!("token={}", hs(&claims));
        assert_eq!(check(&access, &keys, &ask(&name, "::1", &query), NOW).is_ok(), good, "{claims}");
    }
}

/// Key pairs of all kinds, with the PEM file of the public one.
struct Pairs {
    _dir: tempfile::TempDir,
    keys: Vec<JwtKey>,
    private: Vec<(Algorithm, EncodingKey)>,
    /// Of the one of EdDSA, in a set.
    ed: Value,
}

fn pairs() -> Pairs {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [
        (JwtAlgorithm::Rs256, Algorithm::RS256, &rcgen::PKCS_RSA_SHA256),
        (JwtAlgorithm::Es256, Algorithm::ES256, &rcgen::PKCS_ECDSA_P256_SHA256),
        (JwtAlgorithm::EdDsa, Algorithm::EdDSA, &rcgen::PKCS_ED25519),
    ];
    let (mut keys, mut private, mut ed) = (Vec::new(), Vec::new(), Value::Null);
    for (alg, named, kind) in kinds {
        let pair = rcgen::KeyPair::generate_for(kind).unwrap();
        let file = dir.path().join(format!("{named:?}.pem"));
        std::fs::write(&file, pair.public_key_pem()).unwrap();
        let pem = pair.serialize_pem();
        let key = match named {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => {
                ed = json!({"kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key_raw())});
                EncodingKey::from_ed_pem(pem.as_bytes())
            }
        };
        private.push((named, key.unwrap()));
        let file = file.to_str().unwrap().to_owned();
        keys.push(JwtKey { kid: format!("{named:?}"), alg, secret: Secret::default(), file });
    }
    Pairs { _dir: dir, keys, private, ed }
}

/// As URLs have it, without padding (RFC 4648, 5).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letters = |part: &[u8]| {
        let word = part.iter().chain(&[0; 2]).take(3).fold(0, |word, byte| word << 8 | usize::from(*byte));
        let all = [18, 12, 6, 0].map(|shift| char::from(LETTERS[word >> shift & 63]));
        all[..=part.len()].iter().collect::<String>()
    };
    bytes.chunks(3).map(letters).collect()
}

#[test]
fn public_keys_verify_what_their_private_keys_signed() {
    let pairs = pairs();
    let (access, name) = (with_token(Jwt::default()), river());
    let keys = Keys::load(&pairs.keys).unwrap();
    for (alg, key) in &pairs.private {
        let kid = format!("{alg:?}");
        let may = |kid: Option<&str>| {
            let query = format!("token={}", token(*alg, kid, key, &claims()));
            check(&access, &keys, &ask(&name, "::1", &query), NOW)
        };
        assert_eq!(may(Some(&kid)), Ok(()), "{kid}");
        assert_eq!(may(Some("new")), Err(Refusal::UnknownKey));
        assert_eq!(may(None), Err(Refusal::Token), "by which of the three?");
        for other in pairs.private.iter().map(|(other, _)| format!("{other:?}")).filter(|other| *other != kid) {
            assert_eq!(may(Some(&other)), Err(Refusal::Token), "{kid} as {other}");
        }
        // The only key there is need not be named.
        let one = Keys::load(&[pairs.keys.iter().find(|key| key.kid == kid).unwrap().clone()]).unwrap();
        let query = format!("token={}", token(*alg, None, key, &claims()));
        assert_eq!(check(&access, &one, &ask(&name, "::1", &query), NOW), Ok(()));
    }
}

#[test]
fn the_algorithm_is_the_keys_not_the_tokens() {
    let pairs = pairs();
    let (access, name) = (with_token(Jwt::default()), river());
    let mut all = pairs.keys.clone();
    all.push(shared("a", JwtAlgorithm::Hs256));
    let keys = Keys::load(&all).unwrap();
    let refused = |token: &str| {
        let query = format!("token={token}");
        assert_eq!(check(&access, &keys, &ask(&name, "::1", &query), NOW), Err(Refusal::Token), "{token}");
    };
    // Public keys as if they were shared secrets (RFC 8725, 2.1).
    for key in &pairs.keys {
        let public = EncodingKey::from_secret(&std::fs::read(&key.file).unwrap());
        for alg in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            refused(&token(alg, Some(&key.kid), &public, &claims()));
        }
    }
    // The right secret, by another algorithm of its kind.
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    refused(&token(Algorithm::HS384, Some("a"), &secret, &claims()));
    let good = hs(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    // {"alg":"none","kid":"a"}, and the same in other capitals.
    for header in ["eyJhbGciOiJub25lIiwia2lkIjoiYSJ9", "eyJhbGciOiJOb25lIiwia2lkIjoiYSJ9"] {
        refused(&format!("{header}.{}.", parts[1]));
        refused(&format!("{header}.{}.{}", parts[1], parts[2]));
    }
    for forged in [
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{good}A"),
        "a".repeat(100_000),
    ] {
        refused(&forged);
    }
}

#[test]
fn sets_of_keys_rotate_and_stay_when_the_next_is_none() {
    let pairs = pairs();
    let (access, name) = (with_token(Jwt::default()), river());
    let jwk = |at: usize| {
        let (alg, key) = &pairs.private[at];
        let mut jwk = match alg {
            Algorithm::EdDSA => pairs.ed.clone(),
            _ => serde_json::to_value(Jwk::from_encoding_key(key, *alg).unwrap()).unwrap(),
        };
        jwk["kid"] = json!(format!("{alg:?}"));
        jwk
    };
    let may = |keys: &Keys, at: usize| {
        let (alg, key) = &pairs.private[at];
        let query = format!("token={}", token(*alg, Some(&format!("{alg:?}")), key, &claims()));
        check(&access, keys, &ask(&name, "::1", &query), NOW)
    };
    let mut keys = Keys::default();
    assert_eq!(may(&keys, 0), Err(Refusal::UnknownKey));
    let set = |keys: &[Value]| json!({ "keys": keys }).to_string().into_bytes();
    assert_eq!(keys.fetched(&set(&[jwk(0), jwk(1)])).unwrap(), 2);
    assert_eq!([may(&keys, 0), may(&keys, 1), may(&keys, 2)], [Ok(()), Ok(()), Err(Refusal::UnknownKey)]);
    assert_eq!(keys.fetched(&set(&[jwk(1), jwk(2)])).unwrap(), 2);
    assert_eq!([may(&keys, 0), may(&keys, 1), may(&keys, 2)], [Err(Refusal::UnknownKey), Ok(()), Ok(())]);
    // What cannot be used is passed over: encryption, another algorithm, a shared secret for all to see.
    let (mut encrypts, mut other) = (jwk(0), jwk(0));
    encrypts["use"] = json!("enc");
    other["alg"] = json!("RS512");
    let shared = json!({"kty": "oct", "kid": "a", "alg": "HS256", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"});
    for useless in [&[encrypts, other, shared][..], &[json!({"kty": "X"})], &[]] {
        assert!(keys.fetched(&set(useless)).is_err(), "{useless:?}");
    }
    for wrong in [&b""[..], b"{}", b"[]", b"\xff", &vec![b' '; JWKS_MAX + 1]] {
        assert!(keys.fetched(wrong).is_err());
    }
    assert_eq!([may(&keys, 1), may(&keys, 2)], [Ok(()), Ok(())], "the last good one stays");
}

proptest! {
    #[test]
    fn no_change_of_one_letter_of_a_token_opens(at in 0usize..300, letter in "[A-Za-z0-9_.-]") {
        let jwt = Jwt { keys: vec![shared("a", JwtAlgorithm::Hs256)], ..Jwt::default() };
        let (access, keys, name) = (with_token(jwt.clone()), Keys::load(&jwt.keys).unwrap(), river());
        let good = hs(&claims());
        let at = at % good.len();
        let mut changed = good.clone();
        changed.replace_range(at..=at, &letter);
        prop_assume!(changed != good);
        let query = format!("token={changed}");
        prop_assert!(check(&access, &keys, &ask(&name, "::1", &query), NOW).is_err());
    }

    #[test]
    fn queries_of_strangers_open_nothing(query in "((token|jwt|sig|sig_exp)=|[&.%\\PC]){0,40}") {
        let jwt = Jwt { keys: vec![shared("a", JwtAlgorithm::Hs256)], ..Jwt::default() };
        let (access, keys, name) = (with_token(jwt.clone()), Keys::load(&jwt.keys).unwrap(), river());
        prop_assert!(check(&access, &keys, &ask(&name, "::1", &query), NOW).is_err());
    }
}
