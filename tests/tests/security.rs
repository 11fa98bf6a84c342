//! SECURITY.md names a test for each thing that it says an attacker cannot do. The tests exist.

use std::path::Path;

/// The last cell of each row of the tables, without their heads.
fn last_cells(page: &str) -> Vec<&str> {
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let cells = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    cells.filter(|cell| *cell != "test").collect()
}

/// Links of a cell: the name of the test and its file.
fn links(cell: &str) -> Vec<(&str, &str)> {
    let parts = cell.split('[').skip(1);
    parts.filter_map(|link| link.split_once(')')?.0.split_once("](")).collect()
}

#[test]
fn each_line_names_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let cells = last_cells(&page);
    assert!(cells.len() > 30, "only {} lines", cells.len());
    for cell in cells {
        let links = links(cell);
        assert!(!links.is_empty(), "a line without a test: {cell}");
        for (name, file) in links {
            let text =
                std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            // A script for a guest, or a fuzz target, is a test as a whole.
            let found = text.contains(&format!("fn {name}(")) || file.ends_with(&format!("/{name}"));
            assert!(found, "{file} has no test {name}");
        }
    }
}
