#pragma once
/*
 * Commands: `lockspacefs NAME …`, where NAME stands in the table of main.c.
 * Each uses the mount from outside, through its files, as any program could.
 * argv[0] is the command's name; the result is the exit status.
 */

int command_run(int argc, char **argv);
int command_status(int argc, char **argv);
