//! `edgelat metrics`: its options.

use super::{CONFIG_FILE, Command, Complete, Example, Id, Opt, Value};

/// Words for `--buckets-per-octave`.
const BUCKETS_PER_OCTAVE: &[&str] = &["1", "2", "4", "8"];

/// The command.
pub(super) const COMMAND: Command = Command {
    name: "metrics",
    summary: "show what the service measures to Prometheus",
    usage: &[
        "[-c FILE] [--listen ADDRESS:PORT] [--host NAME]...",
        "[-c FILE] --textfile FILE [--interval SECS]",
    ],
    about: &[
        "Answers on http://127.0.0.1:9105/metrics with the histogram of each function and how it is with the service, in \
         the format that is asked for: text, OpenMetrics, or protobuf with native histograms. It reads the live snapshot \
         of a running service, needs no rights, and can be started and ended at any time. While the service does not \
         run it answers with edgelat_up 0.",
        "With --textfile it writes a file for the textfile collector of node_exporter instead, once, or again and again \
         with --interval. docs/METRICS.md explains each metric.",
    ],
    operands: &[],
    trailing: None,
    options: &[
        Opt { more: "It says where the snapshot is, and where to answer.", ..CONFIG_FILE },
        Opt {
            value: Some(Value { name: "ADDRESS:PORT", complete: Complete::Nothing }),
            more: "metrics_listen of the configuration where it is not given. Nobody is asked who it is: another \
                   address than this box's own is for networks that are trusted.",
            ..Opt::switch(Id::Listen, "listen", "Answer there")
        },
        Opt {
            value: Some(Value { name: "NAME", complete: Complete::Nothing }),
            repeatable: true,
            more: "Requests have to name an address, localhost, or one of these names or of metrics_hosts in the \
                   configuration, so that no page in a browser has a name of its own lead here. The option may be \
                   repeated.",
            ..Opt::switch(Id::Host, "host", "Answer requests that are sent to NAME too")
        },
        Opt {
            value: Some(Value { name: "FILE", complete: Complete::Files }),
            more: "It is written beside and renamed, so that a reader finds a whole one. node_exporter reads files that \
                   end in .prom.",
            ..Opt::switch(Id::Textfile, "textfile", "Write FILE instead of answering")
        },
        Opt {
            value: Some(Value { name: "SECS", complete: Complete::Nothing }),
            more: "From 0.1 to 86400; decimals are allowed. Without it the file is written once.",
            ..Opt::switch(Id::Interval, "interval", "--textfile: write it again after SECS seconds")
        },
        Opt {
            value: Some(Value { name: "N", complete: Complete::Words(BUCKETS_PER_OCTAVE) }),
            default: Some("1"),
            more: "Each bound of le is one of a bucket that is counted, so that the counts are exact. A classic histogram \
                   has 32 times N buckets, each of them a series for Prometheus; native ones always have 8 to an octave.",
            ..Opt::switch(Id::BucketsPerOctave, "buckets-per-octave", "Bounds of classic histograms")
        },
    ],
    examples: &[
        Example { line: "edgelat metrics", purpose: "For a Prometheus or an agent of it on this box." },
        Example { line: "edgelat metrics --listen [::]:9105", purpose: "For a Prometheus elsewhere." },
        Example {
            line: "edgelat metrics --textfile /var/lib/node_exporter/edgelat.prom",
            purpose: "For node_exporter, from cron.",
        },
    ],
};
