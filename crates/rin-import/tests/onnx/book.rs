//! The list of operators in the book is that of the code.

use rin_testkit::data::repository;

#[test]
fn the_book_lists_the_operators() {
    let path = repository().join("docs/onnx.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let head = "| operator | limits |\n|---|---|\n";
    let start = text.find(head).unwrap() + head.len();
    let rows: Vec<String> =
        rin_import::onnx_operators().map(|(name, limits)| format!("| {name} | {limits} |\n")).collect();
    let written = format!("{}{}", &text[..start], rows.concat());
    if std::env::var("RIN_WRITE_BOOK").is_ok() {
        std::fs::write(&path, &written).unwrap();
    }
    assert_eq!(text, written, "RIN_WRITE_BOOK=1 writes the list");
}

#[test]
fn operators_are_listed_in_order_and_once() {
    let names: Vec<&str> = rin_import::onnx_operators().map(|(name, _)| name).collect();
    assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
}
