//! What is wrong with a configuration, where, and what to write instead.

use std::fmt;

use serde::de;

use super::suggest::nearest;

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// No particular place: a default, or the file as a whole.
    #[default]
    Nowhere,
    /// Line of the file, from 1.
    Line(u64),
    /// Environment variable.
    Variable(String),
}

/// One step from a section to what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// One thing that is wrong. Also the error type of deserialization, where the path grows on the way out.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    place: Option<Place>,
    /// Innermost step first.
    path: Vec<Step>,
    message: String,
}

impl Fault {
    /// A fault at a key, given from the outermost section inwards.
    pub(super) fn at(place: Place, path: &[&str], message: impl Into<String>) -> Self {
        let path = path.iter().rev().map(|key| Step::Key((*key).to_owned())).collect();
        Self { place: Some(place), path, message: message.into() }
    }

    /// Adds the step that leads to where the fault is, and the place if a deeper step did not know it.
    pub(super) fn within(mut self, step: Step, place: &Place) -> Self {
        self.path.push(step);
        self.place.get_or_insert_with(|| place.clone());
        self
    }

    /// The steps to the fault, the outermost first.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.path.iter().rev()
    }

    fn new(message: String) -> Self {
        Self { place: None, path: Vec::new(), message }
    }

    fn write(&self, file: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(Place::Line(line)) => write!(f, "{file}:{line}: ")?,
            Some(Place::Variable(name)) => write!(f, "environment {name}: ")?,
            Some(Place::Nowhere) | None => write!(f, "{file}: ")?,
        }
        for (i, step) in self.steps().enumerate() {
            match step {
                Step::Key(key) => write!(f, "{}{key}", if i == 0 { "" } else { "." })?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        let colon = if self.path.is_empty() { "" } else { ": " };
        write!(f, "{colon}{}", self.message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::new(match found {
            de::Unexpected::Seq => format!("a list cannot stand here; write {wanted}"),
            de::Unexpected::Map => format!("a section cannot stand here; write {wanted}"),
            de::Unexpected::Unit => format!("the value is missing; write {wanted}, or leave the key out"),
            found => format!("{found} cannot stand here; write {wanted}"),
        })
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(match nearest(key, known) {
            Some(near) => format!("unknown key, did you mean \"{near}\"?"),
            None => format!("unknown key; the keys here are {}", known.join(", ")),
        })
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(format!("{word:?} is not understood; write {}", known.join(", ")))
    }
}

/// Why a configuration was refused: one line for each thing that is wrong, with the file and line or the
/// environment variable, the key, and what to write instead.
#[derive(Clone, Debug, thiserror::Error)]
pub struct ConfigErrors {
    file: String,
    faults: Vec<Fault>,
}

impl ConfigErrors {
    pub(super) fn new(file: String, faults: Vec<Fault>) -> Self {
        Self { file, faults }
    }

    /// Number of lines that `Display` writes, at least 1.
    pub fn count(&self) -> usize {
        self.faults.len()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            fault.write(&self.file, f)?;
        }
        Ok(())
    }
}
