//! What a round does, decided before it begins: a script for each place of a pod, and chores of the
//! node beside them. Pure: the same seed and round are the same plan.
//!
//! A round can be the first one, whatever seed and number: it says which places have a pod when it
//! begins, and they get or lose one then.

use std::fmt;

use crate::dice::Dice;

/// What ends an attachment that a fault has struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heal {
    /// DEL of the same container, at once, as a runtime repeats it.
    Del,
    /// A GC that doesn't list it: the last thing of the round at the latest.
    Gc,
    /// `weir reconcile`, for whom no DEL will come. It takes the dead alone, so the pod ends first.
    Reconcile,
}

/// What happens to the record of a pod that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    Truncated,
    Garbage,
    Deleted,
}

/// One step at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Add,
    /// An ADD for an attachment that there is: refused, and the pod lives on.
    AddAgain,
    /// ADD, killed after so many microseconds.
    AddKilled(u64, Heal),
    /// And once more: a runtime repeats it.
    Del,
    DelKilled(u64, Heal),
    Check,
    /// DEL of a container that never was.
    DelOfNobody,
    /// The pod's namespace goes, as with a runtime that was killed; nobody calls DEL.
    LoseNetns(Heal),
    Spoil(Spoil, Heal),
    /// For some milliseconds; then the record is back as it was, and so must the pod be.
    SpoilAWhile(Spoil, u64),
    /// The lease goes: CHECK names it, DEL ends the pod.
    LoseLease,
    /// The wall clock seems to have been set by so many seconds since the record was written.
    ClockJump(i64),
}

/// What is done to the whole node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chore {
    Gc,
    /// Without a list: it takes the dead alone.
    GcOfTheDead,
    Reconcile,
    Status,
    Reload,
    /// One of them, killed after so many microseconds.
    Killed(Doomed, u64),
    /// And started again after so many milliseconds.
    KillAgent(u64),
    /// The state dir is full, of bytes or of files, for so many milliseconds.
    Full(Scarce, u64),
    /// Files of others in the state dir, until the round's end.
    Foreign,
    /// The wall clock seems to have been set since pods were deleted.
    ClockJump(i64),
    Pause(u64),
}

/// What is killed in the midst of it, beside calls for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doomed {
    Gc,
    Reconcile,
    Reload,
}

/// What a full file system has no more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    Bytes,
    Files,
}

/// What a pod at a place is like, always.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub tcx: bool,
    pub host_port: bool,
    pub limited: bool,
    /// It has the same Kubernetes name in each of its lives.
    pub named: bool,
    /// A process runs in it, as a pause container.
    pub inhabited: bool,
}

/// The script of a place.
#[derive(Debug, PartialEq)]
pub struct Script {
    pub place: usize,
    /// Whether it has a pod when the round begins.
    pub begins: bool,
    pub steps: Vec<Step>,
}

/// A round.
#[derive(Debug, PartialEq)]
pub struct Round {
    pub scripts: Vec<Script>,
    pub chores: Vec<Chore>,
    /// What the round ends with, in this order.
    pub ends: Vec<Heal>,
}

impl Shape {
    pub fn of(place: usize) -> Self {
        Self {
            tcx: place % 8 == 3,
            host_port: place % 4 == 1,
            limited: place % 8 == 5,
            named: place % 3 == 1,
            inhabited: place.is_multiple_of(2),
        }
    }
}

impl Round {
    /// `steady` places of the first ones have a pod that lives all the time.
    pub fn draw(seed: u64, number: u64, places: usize, steady: usize) -> Self {
        let mut dice = Dice::of(seed, number, u64::MAX);
        // Now and then nearly every place is taken, and little happens at each.
        let crowded = dice.one_in(5);
        let scripts: Vec<_> = (0..places)
            .map(|place| {
                let mut dice = Dice::of(seed, number, place as u64);
                let (begins, steps) = if place < steady {
                    (true, steady_steps(&mut dice))
                } else {
                    let begins = crowded || !dice.one_in(4);
                    let quiet = crowded && !dice.one_in(8);
                    (begins, if quiet { Vec::new() } else { steps(&mut dice, begins) })
                };
                Script { place, begins, steps }
            })
            .collect();
        let chores = chores(&mut dice);
        let ends = ends(&mut dice, &scripts, &chores);
        Self { scripts, chores, ends }
    }
}

/// Those that a pod survives.
fn steady_steps(dice: &mut Dice) -> Vec<Step> {
    (0..dice.below(3))
        .map(|_| match dice.below(4) {
            0 => Step::Check,
            1 => Step::AddAgain,
            2 => Step::ClockJump(clock_step(dice)),
            // Not deleted: addresses without a record are nobody's, and given to others.
            _ => Step::SpoilAWhile(dice.pick(&[Spoil::Truncated, Spoil::Garbage]), dice.below(200)),
        })
        .collect()
}

fn steps(dice: &mut Dice, begins: bool) -> Vec<Step> {
    let mut alive = begins;
    let mut steps = Vec::new();
    for _ in 0..dice.below(5) {
        let step = if alive { of_the_living(dice) } else { of_nobody(dice) };
        steps.push(step);
        match (step, heal(step)) {
            (Step::Add, _) => alive = true,
            (Step::Del | Step::LoseLease, _) | (_, Some(Heal::Del)) => alive = false,
            // It is healed at the round's end: nothing more happens at this place.
            (_, Some(_)) => break,
            _ => {}
        }
    }
    steps
}

fn of_nobody(dice: &mut Dice) -> Step {
    match dice.below(8) {
        0 => Step::DelOfNobody,
        1 | 2 => Step::AddKilled(moment(dice), dice.pick(&ANY)),
        _ => Step::Add,
    }
}

fn of_the_living(dice: &mut Dice) -> Step {
    match dice.below(12) {
        0 | 1 => Step::Check,
        2 => Step::AddAgain,
        3 => Step::LoseNetns(dice.pick(&ANY)),
        4 => Step::DelKilled(moment(dice), dice.pick(&ANY)),
        5 => Step::Spoil(Spoil::Truncated, dice.pick(&ANY)),
        6 => Step::Spoil(Spoil::Garbage, dice.pick(&ANY)),
        7 => Step::Spoil(Spoil::Deleted, dice.pick(&WITHOUT_RECORD)),
        8 => Step::LoseLease,
        9 => Step::ClockJump(clock_step(dice)),
        _ => Step::Del,
    }
}

/// docs/plugin.md, "State": at whatever point a call is killed, the record leads the next DEL, GC or
/// reconcile to what there is; and of a record that can't be read DEL finds the interface by its name and
/// mark, GC its network by its leases, reconcile that its interface is gone. A namespace that is gone is
/// what all three are for.
const ANY: [Heal; 3] = [Heal::Del, Heal::Gc, Heal::Reconcile];
/// A record that was deleted tells GC nothing: an interface without one is DEL's, which is told its
/// name, and reconcile's, which looks at all (docs/operate.md, "After a crash or a reboot"). The leases
/// are nobody's, and go with the next GC or reconcile.
const WITHOUT_RECORD: [Heal; 2] = [Heal::Del, Heal::Reconcile];

fn heal(step: Step) -> Option<Heal> {
    match step {
        Step::AddKilled(_, heal)
        | Step::DelKilled(_, heal)
        | Step::LoseNetns(heal)
        | Step::Spoil(_, heal) => Some(heal),
        _ => None,
    }
}

/// Within a call, which takes some milliseconds; more often soon than late.
fn moment(dice: &mut Dice) -> u64 {
    let most = dice.pick(&[1_000, 4_000, 16_000, 64_000]);
    100 + dice.below(most)
}

/// A minute, an hour, a day, ten years; back or forth.
fn clock_step(dice: &mut Dice) -> i64 {
    dice.pick(&[60, 3_600, 86_400, 315_360_000]) * dice.pick(&[-1, 1])
}

fn chores(dice: &mut Dice) -> Vec<Chore> {
    let mut chores = Vec::new();
    for _ in 0..5 + dice.below(12) {
        let pause = Chore::Pause(dice.below(150));
        let chore = match dice.below(16) {
            0 | 1 => Chore::Gc,
            2 => Chore::GcOfTheDead,
            3 | 4 => Chore::Reconcile,
            5 | 6 => Chore::Status,
            7 => Chore::Reload,
            8 => Chore::Killed(Doomed::Gc, moment(dice)),
            9 => Chore::Killed(Doomed::Reconcile, moment(dice)),
            // It loads for most of its time.
            10 => Chore::Killed(Doomed::Reload, 1_000 * (1 + dice.below(1_200))),
            11 => Chore::KillAgent(dice.below(400)),
            12 | 13 => {
                Chore::Full(dice.pick(&[Scarce::Bytes, Scarce::Files]), 20 + dice.below(200))
            }
            14 => Chore::Foreign,
            _ => Chore::ClockJump(clock_step(dice)),
        };
        chores.extend([pause, chore]);
    }
    chores
}

/// Those that a script or a chore relies on, and one of them in any case. What a killed reload has half
/// loaded goes by reconcile (docs/operate.md), or with the next one that loads.
fn ends(dice: &mut Dice, scripts: &[Script], chores: &[Chore]) -> Vec<Heal> {
    let chosen = dice.pick(&[Heal::Gc, Heal::Reconcile]);
    let half_loaded = chores.iter().any(|chore| matches!(chore, Chore::Killed(Doomed::Reload, _)));
    let needed = |which| {
        half_loaded && which == Heal::Reconcile
            || scripts
                .iter()
                .flat_map(|script| &script.steps)
                .any(|&step| heal(step) == Some(which))
    };
    let both = [Heal::Gc, Heal::Reconcile].into_iter();
    both.filter(|&which| which == chosen || needed(which)).collect()
}

impl fmt::Display for Step {
    /// Its kind, for the count of what was done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::AddAgain => "ADD again",
            Self::AddKilled(..) => "ADD killed",
            Self::Del => "DEL",
            Self::DelKilled(..) => "DEL killed",
            Self::Check => "CHECK",
            Self::DelOfNobody => "DEL of nobody",
            Self::LoseNetns(_) => "namespace lost",
            Self::Spoil(Spoil::Truncated, _) => "record truncated",
            Self::Spoil(Spoil::Garbage, _) => "record garbage",
            Self::Spoil(Spoil::Deleted, _) => "record deleted",
            Self::SpoilAWhile(..) => "record unreadable a while",
            Self::LoseLease => "lease deleted",
            Self::ClockJump(_) => "clock step of a record",
        })
    }
}

impl fmt::Display for Chore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gc => "GC",
            Self::Reconcile => "reconcile",
            Self::Status => "STATUS",
            Self::GcOfTheDead => "GC without a list",
            Self::Reload => "reload",
            Self::Killed(Doomed::Gc, _) => "GC killed",
            Self::Killed(Doomed::Reconcile, _) => "reconcile killed",
            Self::Killed(Doomed::Reload, _) => "reload killed",
            Self::KillAgent(_) => "agent killed",
            Self::Full(Scarce::Bytes, _) => "no space",
            Self::Full(Scarce::Files, _) => "no inodes",
            Self::Foreign => "foreign files",
            Self::ClockJump(_) => "clock step of the deleted",
            Self::Pause(_) => "pause",
        })
    }
}

#[test]
fn a_seed_and_a_number_are_a_round() {
    let draw = |seed, number| Round::draw(seed, number, 40, 4);
    assert_eq!(draw(7, 3), draw(7, 3));
    assert!(draw(7, 3) != draw(7, 4) && draw(7, 3) != draw(8, 3));
}
