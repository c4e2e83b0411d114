// timer: commands side by side, interleaved, so that every peer meets the same noise of the machine.
//
//   timer [-n RUNS] [-w WARM_UP] [-q MS] [-o RAW.csv] < LINES
//
// A line: NAME :: COMMAND [:: AFTER [:: BEFORE]]. COMMAND is split at blanks and executed; one that starts with `!` goes
// through `sh -c`. Only COMMAND is timed. `%i` becomes a number unique to the run. Every round runs each line once, the
// first line of the round changing from round to round. -q waits, at most MS, until nothing else is runnable.
// Shown by name: wall ms (median, 10th and 90th percentile), CPU ms (of the command and the children it reaped), peak
// resident memory of the largest process, failures, how many runs found a quiet machine, and the ratios of wall and CPU to
// the last line's medians (put the peer to be compared with there).
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PEERS_MAX = 32, WORDS_MAX = 256, TEXT_MAX = 4096 };

struct peer {
	char text[4][TEXT_MAX]; // name, command, after, before
	double *wall, *cpu;
	long rss_kib;
	int done, failed, quiet;
};
static struct peer peers[PEERS_MAX];
static int peer_count;

static double now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static double ms(struct timeval t) { return t.tv_sec * 1e3 + t.tv_usec / 1e3; }

static void expand(char *out, size_t size, const char *in, long number)
{
	size_t used = 0;
	while (*in && used + 24 < size) {
		if (in[0] == '%' && in[1] == 'i') {
			used += snprintf(out + used, size - used, "%ld", number);
			in += 2;
		} else {
			out[used++] = *in++;
		}
	}
	out[used] = 0;
}

static int run(const char *command, long number, struct rusage *usage)
{
	static char text[2 * TEXT_MAX];
	static char *words[WORDS_MAX + 1];
	expand(text, sizeof text, command, number);
	int count = 0;
	if (text[0] == '!') {
		words[count++] = "sh";
		words[count++] = "-c";
		words[count++] = text + 1;
	} else {
		for (char *word = strtok(text, " \t"); word && count < WORDS_MAX; word = strtok(NULL, " \t"))
			words[count++] = word;
	}
	words[count] = NULL;
	const char *errors = getenv("TIMER_ERRORS");
	pid_t pid = vfork();
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);
		int error = errors ? open(errors, O_WRONLY | O_CREAT | O_APPEND, 0644) : null;
		dup2(null, 0);
		dup2(null, 1);
		dup2(error, 2);
		execvp(words[0], words);
		_exit(127);
	}
	int status = -1;
	while (wait4(pid, &status, 0, usage) < 0 && errno == EINTR)
		;
	return status;
}

static int runnable(void)
{
	char text[16384];
	int fd = open("/proc/stat", O_RDONLY | O_CLOEXEC), used = 0, got;
	while (fd >= 0 && used < (int)sizeof text - 1 && (got = read(fd, text + used, sizeof text - 1 - used)) > 0)
		used += got;
	if (fd >= 0)
		close(fd);
	text[used] = 0;
	char *found = strstr(text, "procs_running ");
	return found ? atoi(found + 14) : 1;
}

static int wait_quiet(int limit_ms)
{
	double end = now_ms() + limit_ms;
	for (int looks = 0; limit_ms && now_ms() < end; usleep(5000)) {
		looks = runnable() <= 1 ? looks + 1 : 0;
		if (looks >= 3)
			return 1;
	}
	return 0;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double quantile(const double *sorted, int count, double fraction)
{
	if (!count)
		return 0;
	double at = fraction * (count - 1);
	int low = at;
	return low + 1 < count ? sorted[low] + (sorted[low + 1] - sorted[low]) * (at - low) : sorted[low];
}

static void trim(char *text)
{
	size_t lead = strspn(text, " \t"), length = strlen(text);
	while (length > lead && strchr(" \t\r\n", text[length - 1]))
		text[--length] = 0;
	memmove(text, text + lead, length - lead + 1);
}

static void read_peers(int runs)
{
	static char line[5 * TEXT_MAX];
	while (peer_count < PEERS_MAX && fgets(line, sizeof line, stdin)) {
		struct peer *peer = &peers[peer_count];
		int field = 0;
		for (char *rest = line; rest && field < 4; field++) {
			char *end = strstr(rest, " :: ");
			if (end)
				*end = 0;
			snprintf(peer->text[field], TEXT_MAX, "%s", rest);
			trim(peer->text[field]);
			rest = end ? end + 4 : NULL;
		}
		if (field < 2)
			continue;
		peer->wall = calloc(runs, sizeof(double));
		peer->cpu = calloc(runs, sizeof(double));
		peer_count++;
	}
}

int main(int argc, char **argv)
{
	int runs = 30, warm_up = 3, quiet_ms = 0, option;
	FILE *raw = NULL;
	while ((option = getopt(argc, argv, "n:w:q:o:")) > 0) {
		switch (option) {
		case 'n': runs = atoi(optarg); break;
		case 'w': warm_up = atoi(optarg); break;
		case 'q': quiet_ms = atoi(optarg); break;
		case 'o': raw = fopen(optarg, "w"); break;
		default: return 2;
		}
	}
	read_peers(runs);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (raw)
		fprintf(raw, "name,run,wall_ms,cpu_ms,rss_kib,status\n");
	long number = (long)getpid() * 1000;
	for (int round = -warm_up; round < runs; round++) {
		for (int j = 0; j < peer_count; j++) {
			struct peer *peer = &peers[(j + (round < 0 ? 0 : round)) % peer_count];
			struct rusage usage = {0}, ignored;
			number++;
			if (*peer->text[3])
				run(peer->text[3], number, &ignored);
			int quiet = wait_quiet(quiet_ms);
			double start = now_ms();
			int status = run(peer->text[1], number, &usage);
			double wall = now_ms() - start, cpu = ms(usage.ru_utime) + ms(usage.ru_stime);
			if (*peer->text[2])
				run(peer->text[2], number, &ignored);
			while (waitpid(-1, NULL, WNOHANG) > 0)
				;
			if (round < 0)
				continue;
			if (raw)
				fprintf(raw, "%s,%d,%.3f,%.3f,%ld,%d\n", peer->text[0], round, wall, cpu, usage.ru_maxrss, status);
			if (status) {
				peer->failed++;
				continue;
			}
			peer->wall[peer->done] = wall;
			peer->cpu[peer->done++] = cpu;
			peer->quiet += quiet;
			if (usage.ru_maxrss > peer->rss_kib)
				peer->rss_kib = usage.ru_maxrss;
		}
	}
	for (int j = 0; j < peer_count; j++) {
		qsort(peers[j].wall, peers[j].done, sizeof(double), compare);
		qsort(peers[j].cpu, peers[j].done, sizeof(double), compare);
	}
	struct peer *base = &peers[peer_count ? peer_count - 1 : 0];
	double base_wall = quantile(base->wall, base->done, .5), base_cpu = quantile(base->cpu, base->done, .5);
	printf("%-14s %4s %8s %8s %8s %8s %8s %6s %6s %7s %7s\n", "name", "n", "wall_ms", "p10", "p90", "cpu_ms", "rss_MiB",
	       "failed", "quiet", "x_wall", "x_cpu");
	for (int j = 0; j < peer_count; j++) {
		struct peer *p = &peers[j];
		double wall = quantile(p->wall, p->done, .5), cpu = quantile(p->cpu, p->done, .5);
		printf("%-14s %4d %8.2f %8.2f %8.2f %8.2f %8.1f %6d %6d %7.2f %7.2f\n", p->text[0], p->done, wall,
		       quantile(p->wall, p->done, .1), quantile(p->wall, p->done, .9), cpu, p->rss_kib / 1024.0, p->failed,
		       p->quiet, base_wall > 0 ? wall / base_wall : 0, base_cpu > 0 ? cpu / base_cpu : 0);
	}
	return 0;
}
