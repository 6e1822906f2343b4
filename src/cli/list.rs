//! What the lists have in common: their flags, and the three ways in which they are printed.

use std::fmt::Display;

use serde::Serialize;

use super::Format;
use super::context::Context;
use super::error::CommandError;
use super::table::table;

/// The flags that every list takes.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only the IDs
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten
    #[arg(long)]
    pub no_trunc: bool,
    /// Table or JSON
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl ListArgs {
    /// An ID as this list shows it: in full on demand, and always in JSON.
    pub fn id(&self, full: &impl Display, short: &str) -> String {
        match self.no_trunc || (self.format == Format::Json && !self.quiet) {
            true => full.to_string(),
            false => short.to_owned(),
        }
    }

    /// Print the rows: their IDs, a JSON object each, or a table.
    pub fn print<R: Serialize, const N: usize>(
        &self,
        cx: &mut Context,
        rows: &[R],
        id: impl Fn(&R) -> String,
        headings: [&str; N],
        columns: impl Fn(&R) -> [String; N],
    ) -> Result<(), CommandError> {
        match (self.quiet, self.format) {
            (true, _) => rows.iter().try_for_each(|row| cx.line(id(row))),
            (_, Format::Json) => rows.iter().try_for_each(|row| cx.json(row)),
            (_, Format::Table) => cx.line(table(headings, rows.iter().map(columns))),
        }
    }
}
