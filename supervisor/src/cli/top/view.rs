//! How the model looks. Pure: a model and an area in, cells out.

use std::ops::Range;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::{Block, Clear, Paragraph, Sparkline, Widget};

use super::columns::{Level, Shown, fitting, gap};
use super::history::Direction;
use super::model::Model;
use crate::cli::units::{megabits, uptime};

/// Where the bars of a rate begin: behind its name and number.
const RATE_WIDTH: u16 = 20;

/// Heights of a screen with room for the bars, for air and the listeners too, and for more than anyone needs.
const LOW: u16 = 8;
const TALL: u16 = 20;
const TALLER: u16 = 36;

/// Listeners that are named.
const LISTENERS_MAX: usize = 64;

const KEYS: [&str; 4] = ["q quit", "s sort", "? help", "arrows and page keys scroll"];

/// The help and its border.
const HELP_SIZE: (u16, u16) = (46, 15);

const HELP: &str = "\
s          sort by the next column
arrows, PgUp, PgDn, Home, End
           scroll
?          show or hide this
q, Esc, ^C quit

CPU        of one core: the kernel's count
BUSY       of one core: the worker's count
LAG        how late its loop was, at most
ROUND      time between writes to players
SKIPS/s    players moved to a newer keyframe

The sums above are those of the edges.";

/// Draws the whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    let parts = Parts::of(area, model);
    title(parts.title, buffer, model);
    sums(parts.sums, buffer, model, parts.rate_in.is_empty());
    rate(parts.rate_in, buffer, model, Direction::In);
    rate(parts.rate_out, buffer, model, Direction::Out);
    let first = model.first();
    let last = (first + page(area, model)).min(model.rows().len());
    table(parts.table, buffer, model, first..last);
    put(buffer, parts.listeners, &listeners(model), dim());
    keys(parts.keys, buffer, model, first, last);
    if model.is_help_shown() {
        help(area, buffer);
    }
}

/// The rows of the table that an area of this size has room for.
pub(super) fn page(area: Rect, model: &Model) -> usize {
    usize::from(Parts::of(area, model).table.height.saturating_sub(1))
}

/// One frame as text: no colours, no bars, every worker, and no line longer than `width`.
pub(super) fn text(model: &Model, width: u16) -> String {
    let rows = u16::try_from(model.rows().len()).unwrap_or(u16::MAX);
    let area = Rect::new(0, 0, width, rows.saturating_add(6));
    let mut buffer = Buffer::empty(area);
    let mut left = area;
    title(take_top(&mut left, 1), &mut buffer, model);
    sums(take_top(&mut left, 1), &mut buffer, model, true);
    take_top(&mut left, 1);
    table(take_top(&mut left, rows.saturating_add(1)), &mut buffer, model, 0..model.rows().len());
    take_top(&mut left, 1);
    put(&mut buffer, left, &listeners(model), Style::new());
    let line = |cells: &[ratatui::buffer::Cell]| {
        let text: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.trim_end().to_owned()
    };
    let lines: Vec<_> = buffer.content().chunks(usize::from(width.max(1))).map(line).collect();
    lines.join("\n").trim_end().to_owned()
}

/// Where everything is. A part that there is no room for is empty.
struct Parts {
    title: Rect,
    sums: Rect,
    rate_in: Rect,
    rate_out: Rect,
    table: Rect,
    listeners: Rect,
    keys: Rect,
}

impl Parts {
    fn of(area: Rect, model: &Model) -> Self {
        let bars = match area.height {
            ..LOW => 0,
            LOW..TALL => 1,
            TALL..TALLER => 2,
            _ => 3,
        };
        let air = u16::from(area.height >= TALL);
        let mut left = area;
        let title = take_top(&mut left, 1);
        let sums = take_top(&mut left, 1);
        let rate_in = take_top(&mut left, bars);
        let rate_out = take_top(&mut left, bars);
        take_top(&mut left, air);
        let keys = take_bottom(&mut left, u16::from(area.height > 4));
        let listeners = take_bottom(&mut left, air * u16::from(!model.reply().listeners.is_empty()));
        Self { title, sums, rate_in, rate_out, table: left, listeners, keys }
    }
}

fn take_top(area: &mut Rect, height: u16) -> Rect {
    let height = height.min(area.height);
    let taken = Rect { height, ..*area };
    *area = Rect { y: area.y + height, height: area.height - height, ..*area };
    taken
}

fn take_bottom(area: &mut Rect, height: u16) -> Rect {
    let height = height.min(area.height);
    area.height -= height;
    Rect { y: area.y + area.height, height, ..*area }
}

/// What the supervisor is or, so that nobody misses it, that it is not there.
fn title(area: Rect, buffer: &mut Buffer, model: &Model) {
    if let Some(lost) = model.is_lost() {
        let text = format!(" trying again for {}s: {}", lost.lasts.as_secs(), lost.why);
        let style = Style::new().fg(Color::White).bg(Color::Red).add_modifier(Modifier::BOLD);
        buffer.set_style(area, style);
        return put(buffer, area, &text, style);
    }
    let reply = model.reply();
    let parts = [
        format!("weir {} on {}", reply.version, model.machine),
        reply.state.clone(),
        format!("up {}", uptime(reply.uptime_ms)),
        format!("process {}", reply.pid),
        format!("generation {}", reply.generation),
        format!("instance {}", reply.host),
    ];
    put(buffer, area, &fit(&parts, ", ", area.width), Style::new().add_modifier(Modifier::BOLD));
}

fn sums(area: Rect, buffer: &mut Buffer, model: &Model, with_rates: bool) {
    let totals = model.totals();
    let (bits_in, bits_out) = rates(model);
    let mut parts = vec![
        format!("connections {}", totals.connections),
        format!("publishers {}", totals.publishers),
        format!("players {}", totals.players),
    ];
    if with_rates {
        parts.push(format!("in {bits_in} out {bits_out} Mbit/s"));
    }
    parts.push(format!("workers {}/{} ready", totals.ready, totals.workers));
    parts.push(format!("sorted by {}", model.sort().name()));
    put(buffer, area, &fit(&parts, "  ", area.width), Style::new());
}

/// Both rates of the host in Mbit/s.
fn rates(model: &Model) -> (String, String) {
    let unknown = || ("-".to_owned(), "-".to_owned());
    model.totals().bits.map_or_else(unknown, |(bits_in, bits_out)| (megabits(bits_in), megabits(bits_out)))
}

/// A rate and its bars.
fn rate(area: Rect, buffer: &mut Buffer, model: &Model, direction: Direction) {
    let (bits_in, bits_out) = rates(model);
    let (name, now, colour) = match direction {
        Direction::In => ("in", bits_in, Color::Cyan),
        Direction::Out => ("out", bits_out, Color::Green),
    };
    put(buffer, area, &format!("{name:<3} {now:>7} Mbit/s"), Style::new());
    let place = Rect { x: area.x + RATE_WIDTH, width: area.width.saturating_sub(RATE_WIDTH), ..area };
    if place.is_empty() {
        return;
    }
    let bars = model.history().bars(direction, usize::from(place.width));
    Sparkline::default().data(bars).absent_value_symbol(" ").style(Style::new().fg(colour)).render(place, buffer);
}

fn table(area: Rect, buffer: &mut Buffer, model: &Model, rows: Range<usize>) {
    // The columns are those that all rows need: they stay when the view moves.
    let shown = fitting(model.rows(), usize::from(area.width));
    let gap = gap(&shown, usize::from(area.width));
    let mut left = area;
    let head = take_top(&mut left, 1);
    let style_of_head = Style::new().fg(Color::Black).bg(Color::Gray);
    buffer.set_style(head, style_of_head);
    let mut x = area.x;
    for Shown { column, width, .. } in &shown {
        x = put_at(buffer, head, x, &aligned(column.head, *width, column.left), style_of_head, gap);
    }
    for index in rows {
        let line = take_top(&mut left, 1);
        let mut x = area.x;
        for Shown { column, width, cells } in &shown {
            let Some(cell) = cells.get(index) else { continue };
            let style = if model.is_lost().is_some() { dim() } else { style(cell.level) };
            x = put_at(buffer, line, x, &aligned(&cell.text, *width, column.left), style, gap);
        }
    }
}

fn style(level: Level) -> Style {
    match level {
        Level::Plain => Style::new(),
        Level::Good => Style::new().fg(Color::Green),
        Level::Warn => Style::new().fg(Color::Yellow),
        Level::Critical => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// Exactly `width` wide.
fn aligned(text: &str, width: usize, left: bool) -> String {
    let text: String = text.chars().take(width).collect();
    if left { format!("{text:<width$}") } else { format!("{text:>width$}") }
}

fn listeners(model: &Model) -> String {
    let listeners = model.reply().listeners.iter().take(LISTENERS_MAX);
    let all: Vec<_> = listeners.map(|listener| format!("{} {}", listener.name, listener.address)).collect();
    if all.is_empty() { String::new() } else { format!("listening: {}", all.join("  ")) }
}

/// Which rows are in view, where that is not all of them, and the keys.
fn keys(area: Rect, buffer: &mut Buffer, model: &Model, first: usize, last: usize) {
    let all = model.rows().len();
    let mut parts: Vec<_> = KEYS.map(str::to_owned).into();
    if last - first < all {
        parts.insert(0, format!("rows {} to {last} of {all}", (first + 1).min(last)));
    }
    put(buffer, area, &fit(&parts, "   ", area.width), dim());
}

fn help(area: Rect, buffer: &mut Buffer) {
    let (width, height) = (HELP_SIZE.0.min(area.width), HELP_SIZE.1.min(area.height));
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(place, buffer);
    Paragraph::new(HELP).block(Block::bordered().title(" help ")).render(place, buffer);
}

/// As many of the parts as fit, the first ones first.
fn fit(parts: &[String], between: &str, width: u16) -> String {
    let mut text = String::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let gap = if text.is_empty() { "" } else { between };
        if !text.is_empty() && text.chars().count() + gap.len() + part.chars().count() > usize::from(width) {
            break;
        }
        text.push_str(gap);
        text.push_str(part);
    }
    text
}

/// Writes into the first line of an area, as much as it is wide.
fn put(buffer: &mut Buffer, area: Rect, text: &str, style: Style) {
    put_at(buffer, area, area.x, text, style, 0);
}

/// Writes into the first line of an area from column `x` on. Returns where the next cell begins, `gap` columns on.
fn put_at(buffer: &mut Buffer, area: Rect, x: u16, text: &str, style: Style, gap: usize) -> u16 {
    let room = area.right().saturating_sub(x);
    if !area.is_empty() && room > 0 {
        buffer.set_stringn(x, area.y, text, usize::from(room), style);
    }
    let width = u16::try_from(text.chars().count() + gap).unwrap_or(u16::MAX);
    x.saturating_add(width)
}
