//! The table's columns: what each shows, and which of them a terminal has room for.

use weir_proto::supervisor::WorkerStatus;

use super::model::{Rates, Row};
use crate::cli::notes::notes;
use crate::cli::units::{megabits, memory, millis, per_second, percent, uptime};

/// Between two columns, at least; and where all that is shown then still fits.
const GAP: usize = 1;
const WIDE_GAP: usize = 2;

/// A cell is cut there.
const CELL_MAX: usize = 120;

/// Notes keep this much from columns of a higher rank, and get more only if all of those fit.
const NOTES_WIDTH: usize = 24;

/// Shares of a core: from the first on, the worker is near its limit; from the second on, clients suffer.
const BUSY: (f64, f64) = (80.0, 95.0);

/// Lateness of a worker's loop in microseconds, likewise.
const LAG: (u64, u64) = (50_000, 250_000);

/// A worker that replaced a dead one stands out for this long, in milliseconds.
const FRESH_MS: u64 = 60_000;

/// How a cell is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Plain,
    Good,
    Warn,
    Critical,
}

/// A cell's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) level: Level,
}

/// A column.
pub(super) struct Column {
    pub(super) head: &'static str,
    /// Columns with the lower rank stay longer where there is no room for all.
    rank: u8,
    /// At least as wide as this, so that the columns stand still while numbers grow.
    width: usize,
    /// Flush left, as words are.
    pub(super) left: bool,
    cell: fn(&Row) -> Cell,
}

/// In the order of the screen. Notes come last, and take what is left.
const COLUMNS: [Column; 18] = [
    Column { head: "WORKER", rank: 0, width: 8, left: true, cell: name },
    Column { head: "PID", rank: 13, width: 7, left: false, cell: |row| of_process(row, |s| s.pid.to_string()) },
    Column { head: "STATE", rank: 1, width: 8, left: true, cell: state },
    Column { head: "UP", rank: 15, width: 6, left: false, cell: |row| of_process(row, |s| uptime(s.uptime_ms)) },
    Column { head: "CPU", rank: 2, width: 6, left: false, cell: cpu },
    Column { head: "BUSY", rank: 10, width: 6, left: false, cell: busy },
    Column { head: "MEM", rank: 8, width: 7, left: false, cell: |row| of_process(row, |s| memory(s.memory_bytes)) },
    Column {
        head: "CONNS",
        rank: 4,
        width: 5,
        left: false,
        cell: |row| of_process(row, |s| s.connections.to_string()),
    },
    Column { head: "PUBS", rank: 11, width: 4, left: false, cell: |row| of_process(row, |s| s.publishers.to_string()) },
    Column { head: "PLAYERS", rank: 6, width: 7, left: false, cell: |row| of_process(row, |s| s.players.to_string()) },
    Column { head: "STREAMS", rank: 14, width: 7, left: false, cell: |row| of_process(row, |s| s.streams.to_string()) },
    Column { head: "IN Mb/s", rank: 7, width: 7, left: false, cell: |row| bits(row, |r| r.bits_in) },
    Column { head: "OUT Mb/s", rank: 3, width: 8, left: false, cell: |row| bits(row, |r| r.bits_out) },
    Column { head: "LAG", rank: 9, width: 5, left: false, cell: lag },
    Column { head: "ROUND", rank: 16, width: 5, left: false, cell: round },
    Column { head: "SKIPS/s", rank: 12, width: 7, left: false, cell: skips },
    Column { head: "RESTARTS", rank: 17, width: 8, left: false, cell: restarts },
    Column { head: "NOTES", rank: 5, width: 0, left: true, cell: remarks },
];

/// A column that is shown, and the cells of every row in it.
pub(super) struct Shown {
    pub(super) column: &'static Column,
    pub(super) width: usize,
    pub(super) cells: Vec<Cell>,
}

/// What lies between two of these columns in `room`.
pub(super) fn gap(shown: &[Shown], room: usize) -> usize {
    let wide: usize = shown.iter().map(|shown| shown.width + WIDE_GAP).sum();
    if wide <= room + WIDE_GAP { WIDE_GAP } else { GAP }
}

/// The columns of `rows` that fit into `room`, in the order of the screen. The first one always does.
pub(super) fn fitting(rows: &[Row], room: usize) -> Vec<Shown> {
    let mut by_rank: Vec<_> = COLUMNS.iter().enumerate().collect();
    by_rank.sort_by_key(|(_, column)| column.rank);
    let (mut shown, mut left) = (Vec::with_capacity(COLUMNS.len()), room + GAP);
    for (place, column) in by_rank {
        let cells: Vec<_> = rows.iter().map(column.cell).collect();
        let widest = cells.iter().map(|cell| cell.text.chars().count()).max().unwrap_or(0).min(CELL_MAX);
        let width = match (column.width, widest) {
            // No row has a note: their column takes no room from another.
            (0, 0) => continue,
            (0, _) => widest.min(NOTES_WIDTH).max(column.head.len()),
            (width, _) => widest.max(width).max(column.head.len()),
        };
        if width + GAP > left && column.rank > 0 {
            continue;
        }
        left = left.saturating_sub(width + GAP);
        shown.push((place, Shown { column, width, cells }));
    }
    shown.sort_by_key(|(place, _)| *place);
    let mut shown: Vec<_> = shown.into_iter().map(|(_, shown)| shown).collect();
    if let Some(notes) = shown.last_mut().filter(|last| last.column.width == 0) {
        let widest = notes.cells.iter().map(|cell| cell.text.chars().count()).max().unwrap_or(0);
        notes.width = notes.width.max(widest.min(CELL_MAX).min(notes.width + left));
    }
    shown
}

fn plain(text: String) -> Cell {
    Cell { text, level: Level::Plain }
}

fn of_process(row: &Row, show: fn(&WorkerStatus) -> String) -> Cell {
    plain(if row.status.pid == 0 { "-".to_owned() } else { show(&row.status) })
}

/// An origin has no such number.
fn of_edge(row: &Row, show: fn(&WorkerStatus) -> String) -> Cell {
    if row.status.role == "edge" { of_process(row, show) } else { plain("-".to_owned()) }
}

fn rate(row: &Row, show: fn(&Rates) -> String) -> Cell {
    plain(row.rates.as_ref().map_or_else(|| "-".to_owned(), show))
}

/// An origin counts no bytes of its relay: where there were none at all, none were counted.
fn bits(row: &Row, of: fn(&Rates) -> f64) -> Cell {
    let counts = row.status.role != "origin" || row.status.bytes_in > 0 || row.status.bytes_out > 0;
    let rates = row.rates.as_ref().filter(|_| counts);
    plain(rates.map_or_else(|| "-".to_owned(), |rates| megabits(of(rates))))
}

fn name(row: &Row) -> Cell {
    plain(format!("{} {}", row.status.role, row.status.slot))
}

/// A state that this version does not know is shown as it is.
fn state(row: &Row) -> Cell {
    let level = match row.status.state.as_str() {
        "ready" => Level::Good,
        "empty" | "starting" | "draining" | "stopping" => Level::Warn,
        "silent" | "killed" | "backoff" | "faulted" => Level::Critical,
        _ => Level::Plain,
    };
    Cell { text: row.status.state.clone(), level }
}

fn above<T: PartialOrd>(number: T, (warn, critical): (T, T)) -> Level {
    if number >= critical {
        Level::Critical
    } else if number >= warn {
        Level::Warn
    } else {
        Level::Plain
    }
}

fn cpu(row: &Row) -> Cell {
    Cell { level: above(row.status.cpu_percent, BUSY), ..of_process(row, |s| percent(s.cpu_percent)) }
}

fn busy(row: &Row) -> Cell {
    Cell { level: above(row.status.busy_percent, BUSY), ..of_edge(row, |s| percent(s.busy_percent)) }
}

fn lag(row: &Row) -> Cell {
    Cell { level: above(row.status.loop_lag_us, LAG), ..of_process(row, |s| millis(s.loop_lag_us)) }
}

fn round(row: &Row) -> Cell {
    of_edge(row, |s| millis(s.round_us))
}

fn skips(row: &Row) -> Cell {
    let any = row.rates.is_some_and(|rates| rates.skips > 0.0);
    Cell { level: if any { Level::Warn } else { Level::Plain }, ..rate(row, |r| per_second(r.skips)) }
}

fn restarts(row: &Row) -> Cell {
    let level = if is_fresh(row) { Level::Warn } else { Level::Plain };
    Cell { text: row.status.restarts.to_string(), level }
}

/// Whether the worker replaced a dead one lately.
fn is_fresh(row: &Row) -> bool {
    let WorkerStatus { restarts, pid, uptime_ms, .. } = row.status;
    restarts > 0 && pid != 0 && uptime_ms < FRESH_MS
}

/// What is unusual about the worker, and what it did to clients in the last second that it should not have to.
fn remarks(row: &Row) -> Cell {
    let mut remarks = notes(&row.status);
    if is_fresh(row) {
        remarks.push(format!("restarted {} ago", uptime(row.status.uptime_ms)));
    }
    let rates = row.rates.unwrap_or_default();
    for (what, rate) in [("refuses", rates.refused), ("closes slow", rates.slow_closed)] {
        if rate > 0.0 {
            remarks.push(format!("{what} {}/s", per_second(rate)));
        }
    }
    Cell { text: remarks.join(", "), level: Level::Warn }
}
