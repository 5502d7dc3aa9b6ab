/* Nothing at all, for a while: what a waiting guest costs its host is measured
 * from outside, between the two lines. */
#include "check.h"
#include "suite.h"

#include <stdio.h>
#include <time.h>

int idle_main(int argc, char **argv)
{
	struct timespec left = { .tv_sec = param_get(argc, argv, "seconds", 5, 1, 3600) };

	puts("idle begins");
	while (nanosleep(&left, &left))
		;
	puts("idle ends");
	return 0;
}
