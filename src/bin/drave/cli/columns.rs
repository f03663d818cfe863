//! Text tables whose columns stay aligned however long their cells are.

/// One column of a table.
pub struct Column {
    pub head: &'static str,
    /// Its minimum width, in characters.
    pub least: usize,
    /// Whether its cells are aligned left.
    pub left: bool,
    /// The number of blanks before it.
    pub gap: usize,
}

/// A column of numbers, aligned right.
pub const fn number(head: &'static str, least: usize) -> Column {
    Column { head, least, left: false, gap: 1 }
}

/// A column of words, aligned left.
pub const fn words(head: &'static str, least: usize, gap: usize) -> Column {
    Column { head, least, left: true, gap }
}

/// The lines of a table, headings first. The last cell of each row is not padded and does not widen its column.
pub fn lines(columns: &[Column], rows: &[Vec<String>]) -> Vec<String> {
    let head = columns.iter().map(|column| column.head.to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |(at, column): (usize, &Column)| {
        let cells = all.iter().filter(|row| at + 1 < row.len()).map(|row| row[at].chars().count());
        cells.max().unwrap_or_default().max(column.least)
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(width).collect();
    all.into_iter().map(|row| line(columns, &widths, row)).collect()
}

fn line(columns: &[Column], widths: &[usize], row: &[String]) -> String {
    let mut line = String::new();
    for (at, ((cell, column), width)) in row.iter().zip(columns).zip(widths).enumerate() {
        if at > 0 {
            line.extend(std::iter::repeat_n(' ', column.gap));
        }
        match (at + 1 == row.len(), column.left) {
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
        let columns = [words("node", 5, 0), number("commit", 9), words("address", 6, 2), words("digest", 0, 2)];
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["n1", "10000000000123", "a:1", "abc"]),
            row(["n2", "7", "a.long.name:2", "abcd"]),
            vec!["?".to_owned(), String::new(), "a:3".to_owned(), "an error of some length".to_owned()],
        ];
        assert_eq!(
            lines(&columns, &rows),
            [
                "node          commit  address        digest",
                "n1    10000000000123  a:1            abc",
                "n2                 7  a.long.name:2  abcd",
                "?                     a:3            an error of some length",
            ]
        );
    }
}
