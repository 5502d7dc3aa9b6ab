/* What a client may ask of the HTTP server, in one place. */
#ifndef RAMET_API_LIMITS_H
#define RAMET_API_LIMITS_H

#include "guest/protocol.h"

#define API_URL_MAX           16384u /* a path of 4095 bytes, each percent-encoded, fits */
#define API_HEADERS_MAX       16384u /* names and values of all header fields together */
#define API_HEADERS_COUNT_MAX 64u
#define API_QUERY_PARAMS_MAX  8u
#define API_PATH_SEGMENTS_MAX 6u

#define API_CREATE_BODY_MAX   (64u * 1024)
#define API_FORK_CHILDREN_MAX 1024u
#define API_EXEC_BODY_MAX     (6u * CODE_LENGTH_MAX + 4096u) /* code as \u00XX escapes */
#define API_BODIES_TOTAL_MAX  (128u * 1024 * 1024)           /* JSON bodies held at one time */
#define API_DRAIN_MAX         (16u * 1024 * 1024)            /* of a refused request's body */

#define API_DIFF_BODY_MAX  (2u * 1024 * 1024) /* the paths, as JSON */
#define API_DIFF_TEXT_FILE (256u * 1024)      /* larger files are not sent as text */
#define API_DIFF_TEXT_ALL  (8u * 1024 * 1024) /* of one reply */

#define API_TIMEOUT_MS_MAX     (24u * 3600 * 1000)
#define API_OUTPUT_LIMIT_MAX   (64u * 1024 * 1024)
#define API_COLLECT_SLACK      (4u * 1024 * 1024) /* result and notices beside the output limit */
#define API_MEMORY_MB_MAX      (1024u * 1024)
#define API_METADATA_KEY_MAX   64u
#define API_METADATA_VALUE_MAX 512u
#define API_LIST_ENTRIES_MAX   100000u
#define API_LIST_BYTES_MAX     (16u * 1024 * 1024)
#define API_SMALL_FILE_MAX     (64u * 1024) /* sent only after its hash was checked */
#define API_CONSOLE_MAX        (64u * 1024)

#define API_CONNECTIONS_MAX   512u
#define API_CONNECTION_MEMORY (128u * 1024) /* MHD's pool: headers, body window, chunks */
#define API_IDLE_TIMEOUT_S    75u           /* keep-alive, slow headers, slow bodies */
#define API_STALL_TIMEOUT_S   600u          /* a client that does not read its stream */

#endif
