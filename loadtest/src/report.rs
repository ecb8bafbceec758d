//! Figures by name: as a table, as JSON, and against what was required of them.

use std::fmt::{self, Write};
use std::str::FromStr;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::histogram::Histogram;
use crate::usage::Share;

/// A figure.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// How many.
    Count(u64),
    /// A measure; shown with at most three decimals.
    Number(f64),
    /// Nothing to measure was seen.
    Unknown,
    /// The processes of the server.
    Processes(Vec<Share>),
}

/// Figures in the order in which they are shown. Names are flat, in snake case, and end in their unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    fields: Vec<(&'static str, Value)>,
}

/// Figures that count what must not happen.
const LOSSES: [&str; 6] = ["failed", "disconnected", "gaps", "skips", "late", "lost"];

impl Report {
    /// Adds a count.
    pub(crate) fn count(&mut self, name: &'static str, count: u64) {
        self.fields.push((name, Value::Count(count)));
    }

    /// Adds a count, or that there is none.
    pub(crate) fn count_if_known(&mut self, name: &'static str, count: Option<u64>) {
        self.fields.push((name, count.map_or(Value::Unknown, Value::Count)));
    }

    /// Adds a measure, or that there is none.
    pub(crate) fn number(&mut self, name: &'static str, number: Option<f64>) {
        self.fields.push((name, number.filter(|n| n.is_finite()).map_or(Value::Unknown, |n| Value::Number(round(n)))));
    }

    /// Adds the 50th, 90th and 99th percentile in milliseconds.
    pub(crate) fn percentiles(&mut self, names: [&'static str; 3], histogram: &Histogram) {
        for (name, share) in names.into_iter().zip([0.5, 0.9, 0.99]) {
            self.number(name, histogram.percentile_ms(share));
        }
    }

    /// Adds minimum, median and maximum.
    pub(crate) fn spread(&mut self, names: [&'static str; 3], mut values: Vec<f64>) {
        values.sort_by(f64::total_cmp);
        let [min, median, max] = names;
        self.number(min, values.first().copied());
        self.number(median, values.get(values.len() / 2).copied());
        self.number(max, values.last().copied());
    }

    /// Adds the processes of the server.
    pub(crate) fn processes(&mut self, mut processes: Vec<Share>) {
        for process in &mut processes {
            process.cpu_percent = round(process.cpu_percent);
            process.cpu_user_percent = round(process.cpu_user_percent);
        }
        self.fields.push(("processes", Value::Processes(processes)));
    }

    /// What was lost, in words; `None` if nothing was.
    pub(crate) fn losses(&self) -> Option<String> {
        let lost = self.fields.iter().filter_map(|(name, value)| match value {
            Value::Count(count) if *count > 0 && LOSSES.contains(name) => Some(format!("{name} {count}")),
            _ => None,
        });
        let lost: Vec<_> = lost.collect();
        (!lost.is_empty()).then(|| lost.join(", "))
    }

    /// The table for people, without a final newline.
    pub(crate) fn table(&self) -> String {
        let width = self.fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let mut lines: Vec<String> = Vec::new();
        for (name, value) in &self.fields {
            match value {
                Value::Processes(processes) => lines.extend(table_of(processes)),
                single => lines.push(format!("{name:width$}  {:>14}", single.to_string())),
            }
        }
        lines.join("\n")
    }

    fn get(&self, name: &str) -> Option<&Value> {
        let single = |value: &&Value| !matches!(value, Value::Processes(_));
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value).filter(single)
    }

    /// The names of the single figures.
    fn names(&self) -> Vec<&'static str> {
        self.fields.iter().filter(|(_, value)| !matches!(value, Value::Processes(_))).map(|(name, _)| *name).collect()
    }
}

fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn table_of(processes: &[Share]) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        format!("{:>8}  {:16}{:>8}{:>8}{:>11}{:>11}", "pid", "name", "cpu %", "user %", "rss KiB", "anon KiB"),
    ];
    lines.extend(processes.iter().map(|process| {
        let Share { pid, name, cpu_percent, cpu_user_percent, rss_kib, anon_kib } = process;
        format!("{pid:>8}  {name:16}{cpu_percent:>8.2}{cpu_user_percent:>8.2}{rss_kib:>11}{anon_kib:>11}")
    }));
    lines
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Number(number) => write!(f, "{number:.3}"),
            Self::Unknown => f.write_char('-'),
            Self::Processes(processes) => write!(f, "{}", processes.len()),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::Number(number) => serializer.serialize_f64(*number),
            Self::Unknown => serializer.serialize_none(),
            Self::Processes(processes) => processes.serialize(serializer),
        }
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// `NAME OP NUMBER`: what a figure must be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Requirement {
    name: String,
    operator: Operator,
    number: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
}

/// Two characters before one, so that `<=` is not read as `<`.
const OPERATORS: [(&str, Operator); 5] = [
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("==", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

/// Why something cannot be required.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequireError {
    /// Not of the form that is understood.
    #[error("{0:?} is not NAME, one of < <= > >= ==, and a number")]
    Form(String),
    /// No such figure.
    #[error("there is no figure {name:?} here; there are {known} (those of the server need --pids)")]
    Name {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
}

impl FromStr for Requirement {
    type Err = RequireError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || RequireError::Form(text.to_owned());
        let at = text.find(['<', '>', '=']).ok_or_else(form)?;
        let (name, rest) = text.split_at(at);
        let (operator, number) = OPERATORS
            .into_iter()
            .find_map(|(sign, operator)| Some((operator, rest.strip_prefix(sign)?)))
            .ok_or_else(form)?;
        let number: f64 = number.trim().parse().map_err(|_| form())?;
        if name.trim().is_empty() || !number.is_finite() {
            return Err(form());
        }
        Ok(Self { name: name.trim().to_owned(), operator, number })
    }
}

impl Requirement {
    /// Whether `report`, which has no figures yet, will have this one.
    ///
    /// # Errors
    /// It will not.
    pub(crate) fn check_name(&self, report: &Report) -> Result<(), RequireError> {
        if report.get(&self.name).is_some() {
            return Ok(());
        }
        Err(RequireError::Name { name: self.name.clone(), known: report.names().join(", ") })
    }

    /// In words why `report` does not satisfy it; `None` if it does.
    pub(crate) fn failure(&self, report: &Report) -> Option<String> {
        let value = report.get(&self.name);
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let number = match value {
            Some(Value::Count(count)) => Some(*count as f64),
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        };
        let Some(found) = number else { return Some(format!("{self} is not met: it could not be measured")) };
        let held = match self.operator {
            Operator::Less => found < self.number,
            Operator::LessOrEqual => found <= self.number,
            Operator::Greater => found > self.number,
            Operator::GreaterOrEqual => found >= self.number,
            // Figures are rounded to three decimals.
            Operator::Equal => (found - self.number).abs() < 0.0005,
        };
        (!held).then(|| format!("{self} is not met: it is {found}"))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = OPERATORS.iter().find(|(_, operator)| *operator == self.operator).map_or("", |(sign, _)| sign);
        write!(f, "{}{sign}{}", self.name, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.count("ok", 20);
        report.count("gaps", 0);
        report.number("cpu_percent", Some(12.34567));
        report.number("latency_p50_ms", None);
        report.processes(vec![Share {
            pid: 7,
            name: "weir".to_owned(),
            cpu_percent: 1.23456,
            cpu_user_percent: 0.5,
            rss_kib: 100,
            anon_kib: 50,
        }]);
        report
    }

    #[test]
    fn requirements_are_held_or_not() {
        for (text, held) in [
            ("ok==20", true),
            ("ok<20", false),
            ("ok<=20", true),
            ("ok>19.5", true),
            ("ok >= 21", false),
            ("cpu_percent<12.346", false),
            ("cpu_percent==12.346", true),
            ("cpu_percent>12", true),
            ("latency_p50_ms<1000", false),
        ] {
            let requirement: Requirement = text.parse().unwrap();
            requirement.check_name(&report()).unwrap();
            let failure = requirement.failure(&report());
            assert_eq!(failure.is_none(), held, "{text}: {failure:?}");
        }
    }

    #[test]
    fn requirements_that_mean_nothing() {
        for text in ["", "ok", "<3", "ok=3", "ok<", "ok<x", "ok<nan", "ok<>3", "ok!=3"] {
            assert!(matches!(text.parse::<Requirement>(), Err(RequireError::Form(_))), "{text}");
        }
        for text in ["nothing<3", "processes>0"] {
            let error = text.parse::<Requirement>().unwrap().check_name(&report()).unwrap_err().to_string();
            assert!(error.contains("ok, gaps, cpu_percent, latency_p50_ms"), "{error}");
        }
    }

    #[test]
    fn json_is_flat_and_in_order() {
        let json = serde_json::to_string(&report()).unwrap();
        let wanted = concat!(
            r#"{"ok":20,"gaps":0,"cpu_percent":12.346,"latency_p50_ms":null,"processes":[{"pid":7,"name":"weir","#,
            r#""cpu_percent":1.235,"cpu_user_percent":0.5,"rss_kib":100,"anon_kib":50}]}"#
        );
        assert_eq!(json, wanted);
    }

    #[test]
    fn tables_are_aligned() {
        let table = report().table();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], format!("ok{}20", " ".repeat(26)));
        assert_eq!(lines[3], format!("latency_p50_ms{}-", " ".repeat(15)));
        assert!(lines[6].contains("weir") && lines[6].len() == lines[5].len(), "{table}");
    }

    #[test]
    fn losses_are_named() {
        let mut report = report();
        assert_eq!(report.losses(), None);
        report.count("failed", 3);
        report.count("late", 1);
        assert_eq!(report.losses().unwrap(), "failed 3, late 1");
    }

    #[test]
    fn spreads() {
        let mut report = Report::default();
        report.spread(["min", "median", "max"], vec![3.0, 1.0, 2.0]);
        report.spread(["a", "b", "c"], Vec::new());
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"min":1.0,"median":2.0,"max":3.0,"a":null,"b":null,"c":null}"#
        );
    }
}
