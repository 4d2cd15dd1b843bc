//! Tables in Markdown, and how numbers are written in them.

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// Cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(caption: impl Into<String>, header: &[&str]) -> Self {
        let header = header.iter().map(|name| (*name).to_owned()).collect();
        Self { caption: caption.into(), header, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table in Markdown, with its caption above.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut out = format!("{}\n\n", self.caption);
        out.push_str(&line(&self.header));
        out.push_str(&format!("|{}\n", "---|".repeat(self.header.len())));
        for row in &self.rows {
            out.push_str(&line(row));
        }
        out
    }
}

/// A number with three significant digits, or four from a thousand on; small and large ones in powers of ten.
pub fn digits(x: f64) -> String {
    let size = x.abs();
    if x == 0.0 || !x.is_finite() {
        return format!("{x}");
    }
    match size {
        size if size >= 1e6 => format!("{x:.2e}"),
        size if size >= 999.5 => format!("{x:.0}"),
        size if size >= 99.95 => format!("{x:.0}"),
        size if size >= 9.995 => format!("{x:.1}"),
        size if size >= 0.9995 => format!("{x:.2}"),
        size if size >= 0.0995 => format!("{x:.3}"),
        size if size >= 0.0095 => format!("{x:.4}"),
        size if size >= 0.000_95 => format!("{x:.5}"),
        _ => format!("{x:.2e}"),
    }
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    format!("{} %", digits(100.0 * share))
}

/// An interval.
pub fn interval([low, high]: [f64; 2]) -> String {
    format!("{} to {}", digits(low), digits(high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let cases = [
            (0.0, "0"),
            (1234.5, "1234"),
            (0.5, "0.500"),
            (99.96, "100"),
            (9.996, "10.0"),
            (-0.012_34, "-0.0123"),
            (1.5e-7, "1.50e-7"),
            (2.5e7, "2.50e7"),
        ];
        for (x, text) in cases {
            assert_eq!(digits(x), text, "{x}");
        }
        assert_eq!(percent(0.125), "12.5 %");
    }

    #[test]
    fn a_table_is_markdown() {
        let mut table = Table::new("What", &["a", "b"]);
        table.row(["1", "x|y"]);
        assert_eq!(table.markdown(), "What\n\n| a | b |\n|---|---|\n| 1 | x\\|y |\n");
    }
}
