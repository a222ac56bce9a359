"""A small dictionary in plain words: word, kind, meaning."""

from __future__ import annotations

_ENTRIES = """
ant noun a very small insect that lives in large groups
apple noun a round fruit with red, green or yellow skin
baker noun a person who makes bread and cakes
bakery noun a shop where bread and cakes are made and sold
ball noun a round thing that is thrown or kicked in games
basket noun a container made of thin pieces of wood, used to carry things
bee noun an insect that flies and makes honey
bird noun an animal with feathers and wings
boat noun a small ship
book noun many pages with words, held together by a cover
bottle noun a container with a narrow neck for water and other drinks
bread noun food made of flour and water that is baked
bridge noun something built over a river or a road so that people can cross it
butter noun a soft yellow food made from milk
butterfly noun an insect with large and colourful wings
candle noun a stick of wax that is burned to give light
carpenter noun a person who makes things out of wood
castle noun a large old building with thick walls, made to keep enemies out
chair noun a thing to sit on, with a back and four legs
city noun a large place where very many people live
clock noun a machine that shows the time
cloud noun a white or grey mass of tiny drops of water in the sky
coin noun a small round piece of metal that is used as money
compass noun a tool whose needle points to the north
cow noun a large farm animal that gives milk
desert noun a large and dry place where few plants grow
diary noun a book in which a person writes what happened each day
doctor noun a person who helps sick people to get well
dog noun an animal that lives with people and barks
door noun the part of a wall that opens so that people can go in and out
dream noun pictures and stories that are in the mind during sleep
drum noun an instrument that is played by hitting it
eagle noun a large bird that hunts small animals
elephant noun a very large grey animal with a long nose
engine noun a machine that makes things move
farmer noun a person who grows plants and keeps animals for food
feather noun one of the light things that cover a bird
fire noun the heat and light of something that burns
flower noun the colourful part of a plant
forest noun a large place with many trees
fork noun a tool with points for eating food
fox noun a wild animal with red fur and a thick tail
frog noun a small green animal that jumps and lives near water
garden noun a piece of ground where flowers and vegetables grow
ghost noun the spirit of a dead person in a story
giant noun a very big and strong person in a story
glove noun a piece of clothing for the hand
hammer noun a tool for hitting nails
harbour noun a safe place for ships near the land
hat noun a piece of clothing for the head
honey noun the sweet and sticky food that bees make
horse noun a large animal that people ride
hospital noun a building where sick people are cared for
house noun a building in which people live
ice noun water that is so cold that it is hard
island noun a piece of land with water all around it
kettle noun a pot in which water is boiled
key noun a small piece of metal that opens a lock
king noun a man who rules a country
kitchen noun the room in which food is cooked
kite noun a light toy that flies in the wind at the end of a string
ladder noun two long bars with steps between them, for climbing up and down
lake noun a large area of water with land all around it
lamp noun a thing that gives light
leaf noun a flat and green part of a plant
letter noun a message on paper that is sent to somebody
library noun a place where people can read and borrow books
lighthouse noun a tower with a bright light that guides ships
lion noun a large wild cat with yellow fur
magnet noun a piece of metal that pulls iron towards it
map noun a drawing that shows where places are
market noun a place where people buy and sell things
medicine noun something that a sick person takes to get well
milk noun the white drink that comes from cows
mirror noun a piece of glass in which people can see themselves
money noun coins and paper that are used to buy things
moon noun the round thing that shines in the sky at night
mountain noun a very high hill
mouse noun a small animal with a long tail
museum noun a building where old or beautiful things are shown
neighbour noun a person who lives next door
nest noun the home that a bird builds for its eggs
ocean noun a very large area of salt water
owl noun a bird with large eyes that hunts at night
painter noun a person who makes pictures with paint
penguin noun a black and white bird that swims but cannot fly
piano noun a large instrument with black and white keys
pillow noun a soft thing to lay the head on
pilot noun a person who flies an aeroplane
planet noun a very large round body that moves around a star
poem noun a short piece of writing whose lines often rhyme
queen noun a woman who rules a country
rabbit noun a small animal with long ears
rain noun drops of water that fall from clouds
rainbow noun a bow of many colours in the sky after rain
ring noun a small circle of metal worn on a finger
river noun a long stream of water that flows to the sea
rope noun a very thick and strong string
sailor noun a person who works on a ship
salt noun a white powder that gives food more taste
scarf noun a long piece of cloth worn around the neck
school noun a place where children learn
secret noun something that only few people know
shadow noun the dark shape behind something that stands in the light
sheep noun a farm animal with thick white wool
ship noun a large boat that crosses the sea
shoe noun a thing worn on the foot
snow noun soft white pieces of ice that fall from the sky
spider noun a small animal with eight legs that makes webs
spoon noun a tool for eating soup
star noun a small point of light in the night sky
storm noun bad weather with strong wind and rain
sugar noun a sweet white powder
summer noun the warmest part of the year
sun noun the star that gives the earth light and heat
sword noun a long and sharp weapon
tailor noun a person who makes clothes
teacher noun a person who helps others to learn
telescope noun a long tool with glass that makes far things look near
tent noun a house of cloth that can be carried along
ticket noun a piece of paper that shows that somebody has paid
tower noun a tall and narrow building
train noun a row of wagons that moves on rails
treasure noun gold and other things of great worth
tree noun a tall plant with a trunk of wood
umbrella noun a thing that keeps the rain off a person
village noun a small place in the country where people live
violin noun an instrument with four strings that is played with a bow
volcano noun a mountain that can throw out fire and hot stones
watch noun a small clock worn on the arm
whale noun a very large animal that lives in the sea
wheel noun a round thing that turns and lets a car roll
window noun an opening in a wall with glass in it
wing noun the part of a bird with which it flies
winter noun the coldest part of the year
wolf noun a wild animal that looks like a large dog
wool noun the thick hair of a sheep
afraid adjective feeling fear
ancient adjective very old
angry adjective feeling that something is wrong and wanting to fight it
bitter adjective having a sharp taste that is not sweet
brave adjective not afraid of danger
bright adjective full of light
calm adjective quiet and without worry
clever adjective quick to learn and understand
cruel adjective wanting to hurt others
curious adjective wanting to know more
empty adjective with nothing inside
enormous adjective very big
faithful adjective always true to a friend
famous adjective known by very many people
foolish adjective not wise
fragile adjective easy to break
gentle adjective soft and kind
greedy adjective wanting more than one needs
happy adjective feeling glad
honest adjective telling the truth
hungry adjective wanting to eat
jealous adjective wanting what somebody else has
lazy adjective not wanting to work
lonely adjective sad because nobody is near
narrow adjective not wide
nervous adjective a little afraid of what will come
patient adjective able to wait without getting angry
polite adjective speaking and acting in a friendly way
proud adjective pleased with what one has done
quiet adjective making little noise
rare adjective not found or seen often
shy adjective afraid to speak to other people
silent adjective making no noise at all
stubborn adjective not willing to change one's mind
thirsty adjective wanting to drink
tiny adjective very small
tired adjective needing rest or sleep
wise adjective knowing much and thinking well
arrive verb to come to a place
bake verb to cook bread or cake in an oven
borrow verb to take something and give it back later
build verb to make something by putting parts together
buy verb to get something for money
carry verb to hold something and take it to another place
climb verb to go up with hands and feet
count verb to find out how many there are
dance verb to move to music
dig verb to make a hole in the ground
explain verb to make something clear
float verb to stay on top of water
forget verb to lose something from the mind
gather verb to bring together in one place
hide verb to put something where nobody can see it
hurry verb to move or act fast
invent verb to make something that was not there before
laugh verb to make a happy sound because something is funny
learn verb to get to know something new
lend verb to give something for some time
listen verb to pay attention to a sound
melt verb to become soft and wet because of heat
paint verb to put colour on something
promise verb to say that one will surely do something
repair verb to make something whole again
rescue verb to save from danger
sail verb to travel over water with the help of the wind
share verb to give a part of something to others
shout verb to speak very loudly
sing verb to make music with the voice
steal verb to take what belongs to somebody else
teach verb to help somebody to learn
travel verb to go from one place to another
wait verb to stay until something happens
wander verb to walk around without a goal
whisper verb to speak very softly
"""

LEXICON: tuple[tuple[str, str, str], ...] = tuple(
    (word, kind, meaning)
    for line in _ENTRIES.strip().splitlines()
    for word, kind, meaning in [line.split(" ", 2)]
)
