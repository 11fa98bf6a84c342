//! Every way in which a function may start, loop and end: counted right, or refused with a reason.

use edgelat_tests::machine::Turn;
use edgelat_tests::{Session, Target, edgelat, target};

use crate::counts::exact;

/// Functions that must be probeable.
const SOUND: &[&str] = &[
    "starts_with_push",
    "starts_with_push_r12",
    "starts_with_endbr64",
    "starts_with_endbr64_push",
    "starts_with_sub",
    "starts_with_nop",
    "starts_with_nop5",
    "keeps_below_the_stack",
    "starts_with_test",
    "slides_to_push",
    "loops_to_the_slide",
    "ends_with_rep_ret",
    "ends_in_four_places",
    "lowers_the_stack_first",
    "returns_behind_branches",
    "tail_callee",
    "tail_direct",
    "tail_or_return",
    "loops_past_push",
    "jump_table",
    "jumps_back_from_cold",
    "returns_from_cold",
    "fallen_into",
    "compiled_switch",
    "compiled_cold",
    "compiled_tail",
    "compiled_loop",
    "compiled_large_frame",
];

/// Functions that may be refused, but never counted wrong.
const DOUBTFUL: &[&str] = &[
    "ends_with_ret_imm",
    "tail_conditional",
    "leaves_a_loop_on_a_condition",
    "tail_indirect",
    "tail_indirect_memory",
    "tail_only",
    "loops_to_entry",
    "tail_calls_itself",
    "table_in_text",
    "falls_through",
];

/// (name, probeable, reason) of the functions of an image.
pub(crate) fn listed(image: &str) -> Vec<(String, bool, Option<String>)> {
    let path = target(image);
    let objects = edgelat(&["functions", path.to_str().unwrap(), "--json"]).objects();
    assert!(!objects.is_empty());
    let mut list = Vec::new();
    for object in objects {
        let name = object["name"].as_str().unwrap().to_owned();
        let probeable = object["probeable"].as_bool().unwrap();
        let reason = object["reason"].as_str().map(str::to_owned);
        assert_eq!(probeable, reason.is_none(), "a refusal has a reason, and only a refusal: {object}");
        let (start, end) = (object["start"].as_u64().unwrap(), object["end"].as_u64().unwrap());
        assert!(start < end || !probeable, "{object}");
        list.push((name, probeable, reason));
    }
    list
}

fn shapes(image: &str) {
    let _turn = Turn::shared();
    let list = listed(image);
    let find = |name: &str| {
        list.iter().find(|(n, ..)| n == name).unwrap_or_else(|| panic!("`{name}` is not listed for {image}"))
    };
    for name in SOUND {
        let (_, probeable, reason) = find(name);
        assert!(probeable, "`{name}` of {image} is refused: {reason:?}");
    }
    let mut functions = SOUND.to_vec();
    functions.extend(DOUBTFUL.iter().filter(|name| find(name).1));
    let (report, _) = exact(image, &["--calls", "300"], &functions);
    assert_eq!(report.functions.len(), functions.len(), "each is in the report");
    for function in &report.functions {
        assert_eq!((function.in_flight, function.all_lost()), (0, 0), "{function:#?}");
        // The destination of a jump is known, or the jump goes through a pointer.
        let through_a_pointer = function.name.starts_with("tail_indirect");
        assert_eq!(function.until_tail_call, through_a_pointer, "{function:#?}");
    }
}

#[test]
fn every_shape_is_counted_right_or_refused() {
    shapes("shapes");
}

#[test]
fn every_shape_is_counted_right_or_refused_without_pie() {
    shapes("shapes-nopie");
}

#[test]
fn every_shape_is_counted_right_or_refused_from_clang() {
    shapes("shapes-clang");
}

#[test]
fn a_function_without_a_way_out_is_refused_with_a_reason() {
    let list = listed("shapes");
    let (_, probeable, reason) = list.iter().find(|(n, ..)| n == "never_returns").unwrap();
    assert!(!probeable);
    assert!(reason.as_ref().is_some_and(|r| !r.is_empty()));
}

/// If neither entry nor exit is single-stepped, both stand at a moved stack pointer.
fn off_the_first_height(route: &str) {
    let _turn = Turn::shared();
    let path = target("shapes");
    let listed = edgelat(&["functions", path.to_str().unwrap(), "--json"]).objects();
    let of = |name: &str| listed.iter().find(|object| object["name"] == name).unwrap()["sites"].clone();
    assert_eq!(of("lowers_the_stack_first")["above"]["entry"], 24);
    assert_eq!(of("lowers_the_stack_first")["why_stepped"]["exits"][0], "no-branch");
    let sites = of("returns_behind_branches");
    assert_eq!(sites["kinds"], serde_json::json!(["branch", "branch", "branch"]), "{sites}");
    assert_eq!(sites["above"]["exits"], serde_json::json!([24, 24, 24]), "{sites}");
    assert_eq!(sites["left_out"]["exits"], serde_json::json!([3, 4, 3]), "{sites}");
    let mut target = Target::start("shapes", &["--calls", "400"]);
    let names = ["lowers_the_stack_first", "returns_behind_branches", "ends_in_four_places"];
    let session = Session::with(&target, &["--route", route], &names);
    target.go();
    let oracle = target.end();
    let report = session.end();
    report.agrees_with(&oracle);
    for name in names {
        let function = report.function(name);
        assert_eq!((function.exits, function.all_lost()), (400, 0), "{function:#?}");
    }
}

#[test]
fn sites_below_the_first_height_are_exact_by_uprobe_multi() {
    off_the_first_height("uprobe_multi");
}

#[test]
fn sites_below_the_first_height_are_exact_by_tracefs() {
    off_the_first_height("tracefs");
}

#[test]
fn sites_below_the_first_height_are_exact_by_single() {
    off_the_first_height("single");
}

/// A return probe replaces the word at the stack pointer: it needs the return address there.
#[test]
fn a_return_probe_does_not_slide_past_what_moves_the_stack() {
    let _turn = Turn::shared();
    let mut target = Target::start("shapes", &["--calls", "400"]);
    let session = Session::with(&target, &["--returns", "uretprobe"], &["lowers_the_stack_first"]);
    target.go();
    let oracle = target.end();
    session.end().agrees_with(&oracle);
}

/// A trap per turn of a loop is a price that no count of calls shows: the probe is at the
/// destination of the jump.
#[test]
fn an_exit_in_a_loop_gets_no_probe() {
    let _turn = Turn::shared();
    let name = "leaves_a_loop_on_a_condition";
    let path = target("shapes");
    let listed = edgelat(&["functions", path.to_str().unwrap(), "--json"]).objects();
    let of = |name: &str| listed.iter().find(|object| object["name"] == name).unwrap()["sites"].clone();
    assert_eq!(of(name)["exits"].as_array().unwrap().len(), 0, "{}", of(name));
    assert_eq!(of(name)["exits_of_callees"], of("tail_callee")["exits"]);
    exact("shapes", &["--calls", "300"], &[name]);
    let mut target = Target::start("shapes", &["--calls", "300"]);
    let session = Session::with(&target, &["--returns", "uretprobe"], &[name]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    report.agrees_with(&oracle);
    assert_eq!(report.functions.len(), 1);
}

/// The two halves of the same image together: a tail call ends one function where the next begins.
#[test]
fn a_tail_call_and_its_callee_are_counted_apart() {
    let _turn = Turn::shared();
    exact("shapes", &["--calls", "300"], &["tail_direct", "tail_callee"]);
}

/// A deletion calls both, and each has a row of its own.
#[test]
fn destructors_that_free_and_those_that_do_not_are_counted_apart() {
    let _turn = Turn::shared();
    let mut target = Target::start("destroys", &["--calls", "500", "--threads", "2"]);
    let session = Session::on(&target, &["destroys::Session::~Session"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    let calls = oracle.function("destroys::Session::~Session()").calls;
    assert_eq!(calls, 1000);
    for name in ["destroys::Session::~Session()", "destroys::Session::~Session() [deleting]"] {
        let function = report.function(name);
        assert_eq!((function.entries, function.exits), (calls, calls), "{function:#?}");
    }
    assert_eq!(report.functions.len(), 2);
}
