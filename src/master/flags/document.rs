//! `docs/master-flags.md`, from the table.

use std::fmt::Write as _;

use super::{Effect, Flag, Since, FLAGS};
use crate::config::gflags::library_flags;

const HEAD: &str = "# Flags of mooncake_master

Generated from `src/master/flags/table.rs`; `MOONCAKE_UPDATE=1 cargo test --test master_flags`
writes it anew. How they are written, and what they mean together:
[operations](operations.md#the-master).

";

/// The page.
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    section(&mut text, "Flags of upstream 0.3.7.post2", Since::V0_3_7);
    section(&mut text, "Flags of this program only", Since::Ours);
    section(&mut text, "Flags of upstream 0.3.13.post1", Since::V0_3_13);
    text += "## Flags of upstream's libraries\n\nAccepted by every program:\n";
    text +=
        "`v` and `minloglevel` choose what is logged; the others of the logging library have no \
             effect, everything goes to standard error.\n\n";
    let names: Vec<String> = library_flags().map(|(name, _)| format!("`{name}`")).collect();
    for line in names.chunks(5) {
        let _ = writeln!(text, "{},", line.join(", "));
    }
    if text.ends_with(",\n") {
        text.truncate(text.len() - 2);
        text += ".\n";
    }
    text
}

fn section(text: &mut String, title: &str, since: Since) {
    let _ = write!(text, "## {title}\n\n");
    let rows = || FLAGS.iter().filter(|flag| flag.since == since);
    table(text, rows().filter(|flag| flag.effect == Effect::Used));
    let mut reasons: Vec<&str> = Vec::new();
    for flag in rows() {
        match flag.effect {
            Effect::None(why) if !reasons.contains(&why) => reasons.push(why),
            _ => {}
        }
    }
    if reasons.is_empty() {
        return;
    }
    *text += "Accepted and checked, but without effect; one warning at the start names those that \
              are given:\n\n";
    for reason in reasons {
        let names: Vec<String> = rows()
            .filter(|flag| flag.effect == Effect::None(reason))
            .map(|flag| format!("`{}`", flag.name))
            .collect();
        let _ = writeln!(text, "- {reason}:");
        for line in names.chunks(3) {
            let _ = writeln!(text, "  {}", line.join(", "));
        }
    }
    text.push('\n');
}

fn table<'a>(text: &mut String, flags: impl Iterator<Item = &'a Flag>) {
    *text += "| flag | type | default | meaning |\n| --- | --- | --- | --- |\n";
    for flag in flags {
        let default = match flag.default {
            "" => String::new(),
            value => format!("`{value}`"),
        };
        let _ = writeln!(
            text,
            "| `{}` | {} | {default} | {} |",
            flag.name,
            flag.kind.name(),
            flag.help
        );
    }
    text.push('\n');
}
