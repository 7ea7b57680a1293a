//! Replays each target's corpus, then mutates it until the time is up. A broken promise ends the
//! run with the input written to `fuzz/artifacts/<target>/`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs, io, panic};

use walcast_fuzz::mutate::{Random, mutate};
use walcast_fuzz::{TARGETS, Target};

const USAGE: &str =
    "usage: soak [--seconds N | --executions N] [--seed N] [--write-seeds] [TARGET | FILE …]
  a TARGET runs alone, else all run; N seconds are shared between them (60 unless told)
  N executions are each target's, however long they take: the same inputs on every machine
  a FILE under fuzz/artifacts/TARGET/ or fuzz/corpus/TARGET/ is run once
  --write-seeds writes fuzz/corpus/TARGET/seed_*";

struct Options {
    seconds: u64,
    executions: Option<u64>,
    seed: u64,
    write_seeds: bool,
    targets: Vec<&'static Target>,
    files: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let options = match options(env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn options(args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        seconds: 60,
        executions: None,
        seed: 1,
        write_seeds: false,
        targets: Vec::new(),
        files: Vec::new(),
    };
    let mut args = args;
    while let Some(arg) = args.next() {
        let mut number = || {
            let value = args.next().and_then(|value| value.parse().ok());
            value.ok_or(format!("{arg} takes a number"))
        };
        match arg.as_str() {
            "--seconds" => options.seconds = number()?,
            "--executions" => options.executions = Some(number()?),
            "--seed" => options.seed = number()?,
            "--write-seeds" => options.write_seeds = true,
            name => match (
                name.parse(),
                TARGETS.iter().find(|target| target.name == name),
            ) {
                (Ok(seconds), _) => options.seconds = seconds,
                (_, Some(target)) => options.targets.push(target),
                _ if Path::new(name).is_file() => options.files.push(name.into()),
                _ => return Err(format!("neither a target nor a file: {name}")),
            },
        }
    }
    if options.targets.is_empty() {
        options.targets = TARGETS.iter().collect();
    }
    Ok(options)
}

/// `false` where a promise was broken.
fn run(options: &Options) -> io::Result<bool> {
    if !options.files.is_empty() {
        return run_files(&options.files);
    }
    if options.write_seeds {
        return options
            .targets
            .iter()
            .try_for_each(|target| write_seeds(target))
            .map(|()| true);
    }
    let share = Duration::from_secs(options.seconds) / options.targets.len() as u32;
    let end = match options.executions {
        Some(executions) => End::Executions(executions),
        None => End::Time(share),
    };
    for target in &options.targets {
        if !soak(target, end, options.seed)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn run_files(files: &[PathBuf]) -> io::Result<bool> {
    for file in files {
        let folder = file.parent().and_then(Path::file_name);
        let target = TARGETS
            .iter()
            .find(|target| folder.is_some_and(|folder| folder == target.name));
        let Some(target) = target else {
            let text = format!("{}: its folder is not named after a target", file.display());
            return Err(io::Error::other(text));
        };
        (target.run)(&fs::read(file)?);
        println!("{}: fine", file.display());
    }
    Ok(true)
}

/// When a target has been run enough.
#[derive(Clone, Copy)]
enum End {
    Time(Duration),
    Executions(u64),
}

fn soak(target: &Target, end: End, seed: u64) -> io::Result<bool> {
    let corpus = corpus(target)?;
    for input in &corpus {
        if !holds(target, input)? {
            return Ok(false);
        }
    }
    let mut random = Random::new(seed);
    let start = Instant::now();
    let mut executions = corpus.len() as u64;
    let mut input = Vec::new();
    let enough = |executions| match end {
        End::Time(share) => start.elapsed() >= share,
        End::Executions(max) => executions >= max,
    };
    while !enough(executions) {
        for _ in 0..256 {
            input.clear();
            input.extend_from_slice(&corpus[random.below(corpus.len())]);
            mutate(&mut input, &corpus, &mut random);
            if !holds(target, &input)? {
                return Ok(false);
            }
        }
        executions += 256;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{}: {executions} executions in {seconds:.1} s, corpus of {}, seed {seed}: nothing broke",
        target.name,
        corpus.len()
    );
    Ok(true)
}

/// Runs one input; keeps it where it breaks a promise (the panic's text has been printed).
fn holds(target: &Target, input: &[u8]) -> io::Result<bool> {
    if panic::catch_unwind(|| (target.run)(input)).is_ok() {
        return Ok(true);
    }
    let folder = root().join("artifacts").join(target.name);
    fs::create_dir_all(&folder)?;
    let hash = input.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)
    });
    let file = folder.join(format!("soak-{hash:016x}"));
    fs::write(&file, input)?;
    eprintln!("{}: broken by {}", target.name, file.display());
    Ok(false)
}

/// The inputs in `corpus/<target>/` in the order of their names, and the seeds.
fn corpus(target: &Target) -> io::Result<Vec<Vec<u8>>> {
    let mut inputs: Vec<Vec<u8>> = (target.seeds)().into_iter().map(|(_, seed)| seed).collect();
    let folder = root().join("corpus").join(target.name);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    for file in files {
        let input = fs::read(file)?;
        if !inputs.contains(&input) {
            inputs.push(input);
        }
    }
    Ok(inputs)
}

fn write_seeds(target: &Target) -> io::Result<()> {
    let folder = root().join("corpus").join(target.name);
    fs::create_dir_all(&folder)?;
    for (name, seed) in (target.seeds)() {
        fs::write(folder.join(format!("seed_{name}")), seed)?;
    }
    Ok(())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
