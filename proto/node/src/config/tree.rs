//! The configuration as written: a tree of sections, lists and words, each with the place it came from.
//!
//! YAML is read into this tree first and typed afterwards, so that environment variables can be laid over the
//! file and every later complaint can name the line.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Location, MessageFormatter, Spanned, UserMessageFormatter};

use super::error::{Fault, Place};

/// Largest text that is read.
pub(super) const TEXT_MAX: usize = 1 << 20;

/// Most words, lists and sections of a file, aliases expanded.
const NODES_MAX: usize = 20_000;

/// Deepest nesting.
const DEPTH_MAX: usize = 32;

/// A value and its place: for a value of a section, the place of its key.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What stands at a place.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing: a key without a value, or `null`.
    Empty,
    /// A word as it was written, without its quotes.
    Word(String),
    /// A list.
    List(Vec<Node>),
    /// A section: keys in the order of the file, each once.
    Section(Vec<(String, Node)>),
}

impl Node {
    /// Reads YAML text. `variable`: the environment variable that holds it, `None` for the file.
    pub(super) fn parse(text: &str, variable: Option<&str>) -> Result<Self, Fault> {
        let place = |location: Location| match variable {
            Some(name) => Place::Variable(name.to_owned()),
            None if location == Location::UNKNOWN => Place::Nowhere,
            None => Place::Line(location.line()),
        };
        if text.len() > TEXT_MAX {
            let message = format!("longer than {TEXT_MAX} bytes, which is more than any configuration needs");
            return Err(Fault::at(place(Location::UNKNOWN), &[], message));
        }
        let mut options = serde_yaml::options! {
            budget: serde_yaml::budget! {
                max_depth: DEPTH_MAX,
                flow_nesting_limit: DEPTH_MAX,
                max_nodes: NODES_MAX,
                max_events: 4 * NODES_MAX,
                max_documents: 2,
                max_buffered_comment_events: 10_000,
            },
        };
        options.alias_limits.max_total_replayed_events = NODES_MAX;
        let raw: Result<Spanned<Raw>, _> = serde_yaml::from_str_with_options(text, options);
        match raw {
            // The root stands for the file as a whole, not for the line of its first key.
            Ok(raw) => Ok(Self { place: place(Location::UNKNOWN), ..build(raw, text, &place) }),
            Err(error) => {
                let error = error.without_snippet();
                let message = UserMessageFormatter.format_message(error).into_owned();
                Err(Fault::at(place(error.location().unwrap_or(Location::UNKNOWN)), &[], message))
            }
        }
    }

    /// Lays `over` on top: sections are joined key by key, everything else is replaced.
    pub(super) fn overlay(&mut self, over: Self) {
        match (&mut self.value, over.value) {
            (Value::Section(entries), Value::Section(above)) => {
                for (key, node) in above {
                    match entries.iter_mut().find(|(k, _)| *k == key) {
                        Some((_, below)) => below.overlay(node),
                        None => entries.push((key, node)),
                    }
                }
            }
            (Value::Section(_), Value::Empty) => {}
            (below, value) => {
                *below = value;
                self.place = over.place;
            }
        }
    }

    /// The place of the innermost step of `path` that is written.
    pub(super) fn place_of(&self, path: &[&str]) -> Place {
        let mut node = self;
        for key in path {
            match node.get(key) {
                Some(inner) => node = inner,
                None => break,
            }
        }
        node.place.clone()
    }

    fn get(&self, key: &str) -> Option<&Self> {
        let Value::Section(entries) = &self.value else { return None };
        entries.iter().find(|(k, _)| k == key).map(|(_, node)| node)
    }

    /// Removes the key at `path`. False when there is none.
    pub(super) fn remove(&mut self, path: &[&str]) -> bool {
        let (Value::Section(entries), Some((key, rest))) = (&mut self.value, path.split_first()) else { return false };
        let Some(at) = entries.iter().position(|(k, _)| k == key) else { return false };
        if rest.is_empty() {
            entries.remove(at);
            return true;
        }
        entries.get_mut(at).is_some_and(|(_, node)| node.remove(rest))
    }
}

/// What the YAML reader makes of a node when no type is asked for.
enum Raw {
    Empty,
    Text(String),
    /// A plain word that looks like a boolean or number, in the reader's own writing.
    Typed(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

fn build(raw: Spanned<Raw>, text: &str, place: &impl Fn(Location) -> Place) -> Node {
    let value = match raw.value {
        Raw::Empty => Value::Empty,
        Raw::Text(word) => Value::Word(word),
        Raw::Typed(word) => Value::Word(as_written(text, raw.defined).map_or(word, str::to_owned)),
        Raw::List(nodes) => Value::List(nodes.into_iter().map(|node| build(node, text, place)).collect()),
        Raw::Map(entries) => {
            let entry = |(key, value): (Spanned<String>, Spanned<Raw>)| {
                let node = build(value, text, place);
                (key.value, Node { place: place(key.defined), ..node })
            };
            Value::Section(entries.into_iter().map(entry).collect())
        }
    };
    Node { place: place(raw.defined), value }
}

/// The text of a plain word, so that a name such as `007` or `1e3` stays what the operator wrote.
fn as_written(text: &str, at: Location) -> Option<&str> {
    let start = usize::try_from(at.span().byte_offset()?).ok()?;
    let len = usize::try_from(at.span().byte_len()?).ok()?;
    let word = text.get(start..start.checked_add(len)?)?.trim();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.' | b'_');
    (!word.is_empty() && word.bytes().all(plain)).then_some(word)
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Empty)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(if value { "on" } else { "off" }.to_owned()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Raw, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            bounded(nodes.len()).map_err(A::Error::custom)?;
            nodes.push(node);
        }
        Ok(Raw::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            bounded(entries.len()).map_err(A::Error::custom)?;
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

fn bounded(len: usize) -> Result<(), String> {
    if len < NODES_MAX { Ok(()) } else { Err(format!("more than {NODES_MAX} entries")) }
}
