//! Text tables whose columns stay aligned however long their cells are.

/// The layout of one column of a table.
pub struct Column {
    pub heading: &'static str,
    /// The minimum width, in characters. A longer cell widens the column.
    pub min_width: usize,
    /// Whether the cells are aligned left, as words are; numbers are aligned right.
    pub is_left_aligned: bool,
    /// The number of blanks between the previous column and this one.
    pub blanks_before: usize,
}

/// A column of numbers, aligned right.
pub const fn number_column(heading: &'static str, min_width: usize) -> Column {
    Column { heading, min_width, is_left_aligned: false, blanks_before: 1 }
}

/// A column of words, aligned left, with `blanks_before` blanks before it.
pub const fn text_column(heading: &'static str, min_width: usize, blanks_before: usize) -> Column {
    Column { heading, min_width, is_left_aligned: true, blanks_before }
}

/// The lines of a table, headings first. The last cell of each row is not padded and does not widen its column.
pub fn format_table(columns: &[Column], rows: &[Vec<String>]) -> Vec<String> {
    let heading_row = columns.iter().map(|column| column.heading.to_owned()).collect();
    let heading_and_rows: Vec<&Vec<String>> = std::iter::once(&heading_row).chain(rows).collect();
    let width_of = |(index, column): (usize, &Column)| {
        let cell_widths =
            heading_and_rows.iter().filter(|row| index + 1 < row.len()).map(|row| row[index].chars().count());
        cell_widths.max().unwrap_or_default().max(column.min_width)
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(width_of).collect();
    heading_and_rows.into_iter().map(|row| format_row(columns, &widths, row)).collect()
}

fn format_row(columns: &[Column], widths: &[usize], row: &[String]) -> String {
    let mut line = String::new();
    for (index, ((cell, column), width)) in row.iter().zip(columns).zip(widths).enumerate() {
        if index > 0 {
            line.extend(std::iter::repeat_n(' ', column.blanks_before));
        }
        match (index + 1 == row.len(), column.is_left_aligned) {
            (true, _) => line.push_str(cell),
            (false, true) => line.push_str(&format!("{cell:<width$}")),
            (false, false) => line.push_str(&format!("{cell:>width$}")),
        }
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_with_cells_of_any_length() {
        let columns = [
            text_column("node", 5, 0),
            number_column("commit", 9),
            text_column("address", 6, 2),
            text_column("digest", 0, 2),
        ];
        let to_row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        let rows = [
            to_row(["n1", "10000000000123", "a:1", "abc"]),
            to_row(["n2", "7", "a.long.name:2", "abcd"]),
            vec!["?".to_owned(), String::new(), "a:3".to_owned(), "an error of some length".to_owned()],
        ];
        assert_eq!(
            format_table(&columns, &rows),
            [
                "node          commit  address        digest",
                "n1    10000000000123  a:1            abc",
                "n2                 7  a.long.name:2  abcd",
                "?                     a:3            an error of some length",
            ]
        );
    }
}
