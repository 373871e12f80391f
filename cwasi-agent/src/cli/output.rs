//! Tables for people, JSON for programs.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, TableStyle};
use serde::Serialize;

use super::CliError;

/// Writes text to the standard output, with a newline.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end())
        .and_then(|()| out.flush())
        .map_err(CliError::Output)
}

/// Writes a value as indented JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CliError::Output(error.into()))?;
    print(&text)
}

/// A table whose columns are as wide as their longest cell. A header alone says that there is nothing.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new())
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    // The preset pads cells with a space on either side.
    let text = table.to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    lines.join("\n")
}

/// Bytes with a binary unit and three digits.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let power = count.ilog2() / 10;
    let power = power.min(5);
    let tenths = u128::from(count) * 10 / (1_u128 << (10 * power));
    let unit = UNITS[power as usize];
    if tenths >= 1000 {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_readable() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (102_399, "99.9 KiB"),
            (102_400, "100 KiB"),
            (4 << 20, "4.0 MiB"),
            (u64::MAX, "16383 PiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [
            vec!["1".to_owned(), "long one".to_owned()],
            vec!["22".to_owned(), "b".to_owned()],
        ];
        assert_eq!(table(&["id", "name"], rows), "id  name\n1   long one\n22  b");
        assert_eq!(table(&["id"], []), "id");
    }
}
