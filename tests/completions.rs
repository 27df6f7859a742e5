//! `weir completions`: each shell takes its script, and completes as it is told there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use std::process::Command;

fn script(shell: &str) -> String {
    let mut weir = Command::new(env!("CARGO_BIN_EXE_weir"));
    let output = weir.args(["completions", shell]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    String::from_utf8(output.stdout).unwrap()
}

/// Has a shell run a program that begins with the completions; returns what it says.
fn run(shell: &str, arguments: &[&str], program: &str) -> Vec<String> {
    // Each test has a thread of its own.
    let own = format!("weir-completions-{}-{:?}", std::process::id(), std::thread::current().id());
    let dir = std::env::temp_dir().join(own.replace(['(', ')'], ""));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("_weir"), script(shell)).unwrap();
    let output = Command::new(shell)
        .args(arguments)
        .args(["-c", program])
        .current_dir(&dir)
        .env("HOME", &dir)
        .output()
        .unwrap_or_else(|err| panic!("{shell} is needed for this test: {err}"));
    std::fs::remove_dir_all(&dir).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{shell}: {said}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_flags_and_values() {
    for (words, expected) in [
        ("weir ob", vec!["observe"]),
        ("weir agent --otlp-p", vec!["--otlp-protocol"]),
        ("weir agent --otlp-protocol ''", vec!["grpc", "http"]),
        ("weir completions z", vec!["zsh"]),
    ] {
        let program = format!(
            "source _weir; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _weir weir \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        assert_eq!(run("bash", &["--norc"], &program), expected, "{words}");
    }
}

#[test]
fn fish_completes_commands_and_flags() {
    let program = "source _weir; complete -C 'weir ob'; complete -C 'weir agent --otlp-p'";
    let said = run("fish", &["--no-config"], program);
    let words: Vec<_> = said.iter().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(words, ["observe", "--otlp-protocol"], "{said:?}");
}

#[test]
fn zsh_takes_the_function_and_registers_it() {
    let program = "autoload -Uz compinit && fpath=($PWD $fpath) && compinit -u -d ./dump && \
                   print -r -- $_comps[weir] && zsh -n _weir && autoload +X -Uz _weir";
    assert_eq!(run("zsh", &["-f"], program), ["_weir"]);
}

/// Types at a shell in a terminal of its own, and says what its line has become; ^X shows the line there.
const TYPIST: &str = r#"
zmodload zsh/zpty
zpty -b person zsh -f -i
say() { zpty -w -n person "$1" }
heed() {
  local piece; heard=
  repeat 1500; do
    if zpty -rt person piece; then heard+=$piece; [[ $heard == *$~1* ]] && return; else sleep 0.02; fi
  done
  print -r -- "it never said $1 but ${(q)heard}" >&2
  exit 1
}
say $'PS1= PS2= RPS1=; setopt menu_complete; unsetopt prompt_sp prompt_cr beep; fpath=($PWD $fpath)\n'
say $'autoload -Uz compinit; compinit -u -d ./dump; zle -N show; bindkey "^X" show\n'
say $'show() { print -r -- "[$BUFFER]"; zle send-break }; print rea""dy\n'
heed ready
for keys in $typed; do
  say ${(g::)keys}$'\x18'
  heed '\[weir*\]'
  print -r -- "${${heard##*\[}%%\]*}"
done
zpty -d person
"#;

#[test]
fn zsh_completes_at_its_prompt() {
    let cases = [
        (r"weir ob\t", "weir observe "),
        (r"weir agent --otlp-p\t", "weir agent --otlp-protocol="),
        (r"weir agent --otlp-protocol \t", "weir agent --otlp-protocol grpc"),
        // Once more, for the next that there is.
        (r"weir agent --otlp-protocol \t\t", "weir agent --otlp-protocol http"),
        (r"weir completions z\t", "weir completions zsh "),
        (r"weir nothing-begins-so\t", "weir nothing-begins-so"),
    ];
    let typed: Vec<_> = cases.iter().map(|(keys, _)| format!("'{keys}'")).collect();
    let program = format!("typed=({}){TYPIST}", typed.join(" "));
    let shown = run("zsh", &["-f"], &program);
    assert_eq!(shown, cases.map(|(_, line)| line));
}

#[test]
fn another_shell_is_answered_with_those_that_there_are() {
    let mut weir = Command::new(env!("CARGO_BIN_EXE_weir"));
    let output = weir.args(["completions", "tcsh"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("bash, zsh, fish"), "{said}");
}
