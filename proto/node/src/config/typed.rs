//! From the tree to typed values: serde over [`Node`], with the key path and the place in every error.

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::error::{Fault, Step};
use super::tree::{Node, Value};

/// Deserializes one node of the tree.
#[derive(Clone, Copy)]
pub(super) struct Typed<'a>(pub(super) &'a Node);

impl<'a> Typed<'a> {
    /// The entries of a section; a key without a value is an empty section.
    fn section(self) -> Result<Section<'a>, Fault> {
        match &self.0.value {
            Value::Section(entries) => Ok(Section { rest: entries.iter(), current: None }),
            Value::Empty => Ok(Section { rest: [].iter(), current: None }),
            Value::Word(word) => Err(de::Error::custom(format!(
                "{word:?} cannot stand here; this is a section, write its keys below it"
            ))),
            Value::List(_) => {
                Err(de::Error::custom("a list cannot stand here; this is a section, write its keys below it"))
            }
        }
    }
}

impl<'de> Deserializer<'de> for Typed<'de> {
    type Error = Fault;

    /// Words stay text: the types of [`super::value`] read them.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.value {
            Value::Empty => visitor.visit_unit(),
            Value::Word(word) => visitor.visit_borrowed_str(word),
            Value::List(nodes) => visitor.visit_seq(List { rest: nodes.iter().enumerate() }),
            Value::Section(_) => visitor.visit_map(self.section()?),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.value {
            Value::Word(word) => match word.to_ascii_lowercase().as_str() {
                "on" | "true" | "yes" => visitor.visit_bool(true),
                "off" | "false" | "no" => visitor.visit_bool(false),
                _ => Err(de::Error::custom(format!("{word:?} is neither on nor off; write one of them"))),
            },
            Value::Empty => Err(de::Error::custom("the value is missing; write on or off, or leave the key out")),
            _ => Err(de::Error::custom("write on or off")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.value {
            Value::Empty => visitor.visit_borrowed_str(""),
            Value::Word(word) => visitor.visit_borrowed_str(word),
            _ => Err(de::Error::custom("write one text here")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.value {
            Value::List(nodes) => visitor.visit_seq(List { rest: nodes.iter().enumerate() }),
            Value::Empty => visitor.visit_seq(List { rest: [].iter().enumerate() }),
            Value::Word(word) => Err(de::Error::custom(format!("a list stands here; write [{word}]"))),
            Value::Section(_) => Err(de::Error::custom("a list stands here; write [A, B]")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_map(self.section()?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_map(self.section()?)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.0.value {
            Value::Word(word) => visitor.visit_enum(word.as_str().into_deserializer()),
            _ => Err(de::Error::custom(format!("write {}", variants.join(", ")))),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf option unit unit_struct
        newtype_struct tuple tuple_struct identifier ignored_any
    }
}

struct List<'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for List<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, node)) = self.rest.next() else { return Ok(None) };
        seed.deserialize(Typed(node)).map(Some).map_err(|fault| fault.within(Step::Index(index), &node.place))
    }
}

struct Section<'a> {
    rest: std::slice::Iter<'a, (String, Node)>,
    current: Option<&'a (String, Node)>,
}

impl<'de> MapAccess<'de> for Section<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.current = self.rest.next();
        let Some((key, node)) = self.current else { return Ok(None) };
        let word: StrDeserializer<'de, Fault> = key.as_str().into_deserializer();
        seed.deserialize(word).map(Some).map_err(|fault| fault.within(Step::Key(key.clone()), &node.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((key, node)) = self.current else { return Err(de::Error::custom("a value without a key")) };
        seed.deserialize(Typed(node)).map_err(|fault| fault.within(Step::Key(key.clone()), &node.place))
    }
}
