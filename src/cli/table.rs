//! Lists as Docker prints them: columns under headings in capitals, three blanks apart.

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};

/// Docker's columns are at least this wide, with the blanks after them; the last is not.
const NARROWEST: u16 = 10;

/// A table with these headings and rows.
pub fn table<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    table_of(&headings.map(str::to_owned), rows)
}

/// As [`table`], where how many columns there are is known only when it is made.
pub fn table_of(
    headings: &[String],
    rows: impl IntoIterator<Item = impl IntoIterator<Item = String>>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings);
    for row in rows {
        table.add_row(row);
    }
    let last = headings.len().saturating_sub(1);
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if i == last { 0 } else { 3 }));
        column.set_constraint(match i {
            i if i == last => ColumnConstraint::ContentWidth,
            _ => ColumnConstraint::LowerBoundary(Width::Fixed(NARROWEST)),
        });
    }
    let text = table.to_string();
    text.lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_three_blanks_apart() {
        let rows = [
            ["app".to_owned(), "1".to_owned()],
            ["a-long-name".to_owned(), "22".to_owned()],
        ];
        assert_eq!(
            table(["NAME", "N"], rows),
            "NAME          N\napp           1\na-long-name   22"
        );
        assert_eq!(table(["NAME", "N"], []), "NAME      N");
    }
}
